"""Lists the images in a folder with one subfolder per class, or reports all problems."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recipe.components.data.image_files import find_unreadable, list_image_files
from recipe.errors import Problems
from recipe.formatting import escape_unprintable, format_list, pluralize

SKIP_HINT = "skip them: data.on_bad_file=skip"

FilesByClass = dict[str, list[Path]]
"""The images of each class, as sorted paths relative to the root folder; classes are sorted."""


def list_class_files(
    root: Path, val: float | None, *, check: bool, max_pixels: int
) -> dict[str, FilesByClass]:
    """Returns the images of each split; only `train` if `val` is the share to hold out.

    Raises SpecError with all problems: images that can't be read (if `check`), are hidden or in no
    class folder; classes without images or missing from a split; names that aren't Unicode.
    """
    folders = _list_folders(root)
    parts = sorted({"train", "val", "test"} & set(folders))
    divided = "train" in parts or "val" in parts
    _check_parts(root, folders, parts if divided else [], val)
    found: dict[str, FilesByClass] = {
        part: {name: [] for name in _list_folders(root / part if divided else root)}
        for part in (parts if divided else ["train"])
    }
    strays, hidden = [], []
    with Problems.prefix_key("data.path"):
        images = list_image_files(root)
    for file in images:
        place = file.parts if divided else ("train", *file.parts)
        if any(name.startswith(".") for name in place):
            hidden.append(escape_unprintable(file))
        elif len(place) < 3:
            strays.append(escape_unprintable(file))
        else:
            found[place[0]][place[1]].append(file)
    problems = Problems()
    count, where = pluralize(len(images), "image"), escape_unprintable(root)
    bad = find_unreadable(root, images, max_pixels) if check else []
    for files, wrong, way_out in (
        (bad, "can't be read", f"repair or remove them, or {SKIP_HINT}"),
        (hidden, "are hidden", "remove or rename them"),
        (strays, "are in no class folder", "move them into one"),
        (_find_undecodable_names(images), "have names that aren't Unicode", "rename them"),
    ):
        if files:
            problems.append(
                f"data.path: {len(files)} of {count} in {where} {wrong}: {format_list(files)}; "
                f"{way_out}"
            )
    problems += [f"data.path: {problem} (in {where})" for problem in _class_problems(root, found)]
    problems.raise_if_any()
    return found


def _list_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"data.path: {escape_unprintable(folder)} is not a folder")
    return sorted(each.name for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")


def _check_parts(root: Path, folders: list[str], parts: list[str], val: float | None) -> None:
    """Raises ValueError if folders and `val` don't define both training and validation split.

    `parts` are the folders that are splits, not classes.
    """
    where, shown = escape_unprintable(root), escape_unprintable(format_list(folders, 8))
    if not parts and val is None:
        raise ValueError(
            f"data.val: null needs folders train/ and val/ in {where}; give the share to validate "
            "on, such as data.val=0.2"
        )
    if parts and (folders != parts or not {"train", "val"} <= set(parts)):
        raise ValueError(
            f"data.path: {where} has the folders {shown}; use one folder per class, or only train, "
            "val and optionally test"
        )
    if parts and val is not None:
        raise ValueError(
            f"data.val: {val} would be ignored, {where} is divided into {shown}; use data.val=null"
        )


def _class_problems(root: Path, found: dict[str, FilesByClass]) -> Iterator[str]:
    """Yields problems of the classes of each split."""
    classes = set(found["train"])
    if len(classes) < 2:
        there = f"only {escape_unprintable(format_list(sorted(classes)))}" if classes else "none"
        yield f"at least two class folders are needed, there is {there}; add some"
    if undecoded := _find_undecodable_names(sorted(map(Path, classes))):
        yield (
            f"names of {pluralize(len(undecoded), 'class folder')} aren't Unicode: "
            f"{format_list(undecoded)}; rename them"
        )
    for part, listing in found.items():
        for one, other, lacking in (
            ("train", part, sorted(classes - set(listing))),
            (part, "train", sorted(set(listing) - classes)),
        ):
            if lacking:
                yield (
                    f"{len(lacking)} of the {len(found[one])} classes in {one}/ "
                    f"{'is' if len(lacking) == 1 else 'are'} missing from {other}/: "
                    f"{escape_unprintable(format_list(lacking))}; all splits need the same classes"
                )
        empty = [name for name, files in listing.items() if not files]
        if empty:
            folder = root / part if len(found) > 1 else root
            shown = format_list(
                [
                    f"{escape_unprintable(name)} ({_describe_content(folder / name)})"
                    for name in empty
                ]
            )
            yield (
                f"{len(empty)} of {len(listing)} class folders"
                f"{f' of {part}/' if len(found) > 1 else ''} without an image: {shown}; fill or "
                "remove them"
            )


def _describe_content(folder: Path) -> str:
    names = sorted(each.name for each in folder.iterdir())
    return f"holds {escape_unprintable(format_list(names))}" if names else "empty"


def _find_undecodable_names(files: list[Path]) -> list[str]:
    """Returns the files whose names are in another encoding."""
    return [escape_unprintable(file) for file in files if not _is_unicode(str(file))]


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
