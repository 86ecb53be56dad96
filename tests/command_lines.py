"""Random command lines drawn from the menu: options, settings and values that fit, and broken ones.

What there is to choose and to set is read from the option files and the parts' signatures, so
that a new option or setting is drawn as soon as it is there.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import trainable_options
from hypothesis import strategies as st
from omegaconf import OmegaConf

from recipe.cli import main
from recipe.config import allowlist, option_files, schema
from recipe.config.groups import ENGINE_SETTINGS, GROUPS, RUN_SETTINGS
from recipe.config.option_files import EXPERIMENT_GROUP

Line = list[str]

Key = tuple[str, str, str]
"""Group, option and name of a setting; the first two are empty for one of the whole run."""

Draw = Callable[[st.SearchStrategy[Any]], Any]

BASE = (
    "device=cpu", "device.threads=1", "tracking=none", "epochs=2",
    "data=random", "data.n_train=20", "data.n_val=10", "data.channels=1", "data.size=8",
    "data.classes=3", "data.batch_size=10", "data.eval_batch_size=256", "model.widths=[2,4]",
)  # fmt: skip
"""What a line has unless it says something else: two steps in each of two epochs."""

COSTLY = {"epochs", "convolutions", "blocks", "workers", "threads"}
"""Whole numbers that may be as large as one has time and memory; never drawn huge."""

ROOTS = {key: kind for key, kind in RUN_SETTINGS.items() if key != "output_dir"}
"""Settings of the whole run; the record stays where the test looks for it."""

PLACES = (
    "digits_low",
    "folder",
    "arrays.npz",
    "cifar10",
    "weights.safetensors",
    "nowhere",
    "http://127.0.0.1:1",
)
"""Files in the working directory, a recorded run, an address, and what isn't there."""

PATTERNS = (
    "*", "*1_1*", "*2_*", "*.bias", "re:conv", "re:^c", "classifier", "convolution1_1",
    "batchnorm1_1", "nothing*", "re:nothing", "convolution1", "re:(", "[", "re:", "", ".",
)  # fmt: skip
"""Names of parameters: some take all, some overlap, some take none, some are no pattern."""

RULE = ("match", "lr", "weight_decay", "momentum", "name", "params", "nesterov", "betas")
"""Keys of a mapping whose keys no annotation tells."""

NUMBERS = (0, 1, 2, 3, 4, 8, 0.5, 0.1, 0.01, 0.9, 1e-3)

WORDS = ("auto", "none", "x y", "a'b", 'a"b', "naïve", "日本", "🙂", "a\nb", "\\", "a\tb", "%s{}",
         "[/red]", "../up", "a/b", "a,b", "a=b", "@", "#", "$", "\udcff", "yes", "1e3",
         "~", "-")  # fmt: skip

HUGE = (2**63, 10**30, -(2**63), 1e30, 1e308, 5e-324)

WILD: tuple[Any, ...] = (
    None, True, False, -1, 0, 0.5, -0.5, 2, math.nan, math.inf, -math.inf, *HUGE,
    [], [[]], [None], [math.nan], [0], [-1], [1, 1], ["a"], [1, [2]], [{}], {}, {"a": 1},
    {"a": {"b": [None, "c"]}}, {"_target_": "os.system"}, "", *WORDS,
)  # fmt: skip

RAW = (
    "${nowhere}", "${data.classes}", "${seed}", "${oc.env:NOWHERE}", "${", "???", "1,2", "[1,2",
    "{a:1", "range(1,3)", "choice(1,2)", "glob(*)", "interval(0,1)", "int(0.5)", "str(1)",
    "${.lr}", "${oc.select:data.size,2}", "'open", "null", "a b", "\\,", ":", "*", "", "010",
)  # fmt: skip
"""Values as they are typed, some of which mean something to Hydra."""

TOKENS = (
    "=",
    "==",
    "=1",
    "a",
    "clip",
    "a.b.c=1",
    ".=1",
    "a..b=1",
    "clip.=1",
    "[]=1",
    "x y=1",
    "~",
    "+",
    "++",
    "~clip",
    "~clip=norm",
    "~clip.max_norm",
    "~epochs",
    "+experiment=transfer",
    "clip@model=norm",
    "clip@_global_=norm",
    "clip=[norm,value]",
    "clip=norm,value",
    "clip={a: 1}",
    "clip=null",
    "clip=",
    "clip='norm'",
    "hydra=1",
    "hydra.foo=1",
    "hydra/launcher=nowhere",
    "hydra.searchpath=[nowhere]",
    "hydra.job.chdir=true",
    "spec=nowhere.yaml",
    "options.clip=norm",
    "clip._target_=os.system",
    "clip._target_=recipe.components.clip.nowhere",
    "+clip._partial_=true",
    "+clip._recursive_=false",
    "clip.max_norm.x=1",
    "model.widths.0=4",
    "model.widths[0]=4",
    "+model.widths.0=4",
    "seed.x=1",
    "-x",
    "--force",
    "日本=1",
    "名.前=1",
    "'a'=1",
    "a'b=1",
    "\udcff=1",
    "a\nb=1",
    "defaults=[]",
    "+defaults=[]",
    "_self_=1",
    "project=default",
)


@functools.cache
def written(group: str, option: str) -> dict[str, Any]:
    """The settings of an option as its file gives them, those it inherits included."""
    path = option_files.find_options(group)[option].path
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    found: dict[str, Any] = {}
    for parent in content.pop("defaults", []):
        name = str(parent).partition("@")[0]
        if name in option_files.find_options(group):
            found |= written(group, name)
    if "# @package _global_" in path.read_text(encoding="utf-8"):
        content = content.get(group, {})
    return {**found, **content}


def made_of(experiment: str) -> dict[str, str]:
    """The options that an experiment chooses, by group."""
    content = OmegaConf.load(option_files.find_options(EXPERIMENT_GROUP)[experiment].path)
    entries = [entry for entry in content.defaults if OmegaConf.is_dict(entry)]
    return {str(k).rpartition("/")[2]: str(v) for entry in entries for k, v in entry.items()}


@functools.cache
def known(group: str, option: str) -> dict[str, Any]:
    """Every setting that an option takes, in its file or not, with its annotation."""
    content = written(group, option)
    taken, _ = schema.get_accepted_settings(allowlist.locate_target(content["_target_"], ()), group)
    engine = {k: kind for k, kind in ENGINE_SETTINGS.get(group, {}).items() if k in content}
    return engine | taken


def fitting(kind: Any, default: Any = None) -> st.SearchStrategy[Any]:
    """Values of an annotated type, near the default; whether they are in range is left open."""
    args = get_args(kind)
    if get_origin(kind) is Annotated:
        return fitting(args[0], default)
    if get_origin(kind) is Literal:
        return st.sampled_from(args)
    if get_origin(kind) in (Union, types.UnionType):
        return st.one_of([fitting(arg, default) for arg in args])
    if get_origin(kind) is list:
        return st.lists(fitting(args[0]), min_size=1, max_size=3)
    if get_origin(kind) is tuple:
        return st.tuples(*(fitting(arg) for arg in args)).map(list)
    if is_typeddict(kind):
        return st.fixed_dictionaries({k: fitting(v) for k, v in get_type_hints(kind).items()})
    if get_origin(kind) is dict:
        rule = {"match": st.sampled_from(PATTERNS), "lr": fitting(float)}
        return st.fixed_dictionaries(rule, optional={"weight_decay": fitting(float)})
    return _plain(kind, default)


def _plain(kind: Any, default: Any) -> st.SearchStrategy[Any]:
    near = [default] if type(default) is kind else []
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.sampled_from([*(n for n in near if n <= 16), 1, 2, 3, 4, 8])
    if kind is float:
        return st.sampled_from([*(n / f for n in near for f in (1, 2, 10)), 1.0, 0.5, 0.1, 1e-3])
    if kind is str:
        return st.sampled_from([*near, *PATTERNS[:8], *PLACES])
    return st.none()


def typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {typed(item)}' for key, item in value.items())}}}"
    if isinstance(value, str) and not value.isidentifier():
        quoted = value.replace("\\'", "\\\\'").replace("'", "\\'")
        return f"'{quoted}\\'" if quoted.endswith("\\") else f"'{quoted}'"
    return str(value)


@st.composite
def lines(draw: Draw, group: str, option: str) -> Line:
    """A command line that chooses this option, alone or with others, and sets some settings.

    `group` may be a group, `experiment`, or empty for a line about settings of the whole run.
    """
    chosen = {group: option} if group else {}
    chosen |= made_of(option) if group == EXPERIMENT_GROUP else {}
    others = [name for name in GROUPS if name not in chosen]
    for name in draw(st.lists(st.sampled_from(others), unique=True, max_size=2)):
        chosen[name] = draw(st.sampled_from(sorted(option_files.find_options(name))))
    for name, choice in [*chosen.items()]:
        for text in trainable_options.NEEDS.get(f"{name}={choice}", ()):
            needed, _, value = text.partition("=")
            if needed in GROUPS:
                chosen.setdefault(needed, value)
    choices = [f"{name}={choice}" for name, choice in chosen.items()]
    needs = [text for choice in choices for text in trainable_options.NEEDS.get(choice, ())]
    needs = [text for text in needs if text.partition("=")[0] not in GROUPS]
    keys = settable(chosen, group)
    fits = draw(st.lists(fitting_override(keys), min_size=not group, max_size=3))
    spoils = draw(st.sampled_from((0, 0, 0, 1, 1, 2)))
    broken = [draw(broken_override(keys, group)) for _ in range(spoils)]
    line = draw(st.permutations([*choices, *fits, *broken]))
    return [*beneath([*BASE, *needs], line), *line]


def beneath(base: Iterable[str], line: Sequence[str]) -> Line:
    """Those of the base that a line doesn't replace: its keys, and settings of its groups that
    were meant for another option."""
    keys = {text.lstrip("+~").partition("=")[0] for text in line}
    needed = {text for choice in (*line, *base) for text in trainable_options.NEEDS.get(choice, ())}
    return [
        text
        for text in dict.fromkeys(base)
        if (key := text.partition("=")[0]) not in keys
        and (text in needed or "." not in key or key.partition(".")[0] not in keys)
    ]


def settable(chosen: Mapping[str, str], group: str) -> list[Key]:
    """The settings of a line's options and of the whole run; one in three is the group's own."""
    base = dict(text.split("=") for text in BASE)
    options = {**option_files.get_default_options(), **base, **chosen}
    keys = {g: [(g, options[g], k) for k in known(g, options[g])] for g in GROUPS}
    keys[""] = [("", "", key) for key in ROOTS]
    everywhere = [key for held in keys.values() for key in held]
    own = keys.get(group, [])
    return [*own * (len(everywhere) // 2 // max(1, len(own))), *everywhere]


def fitting_override(keys: Sequence[Key]) -> st.SearchStrategy[str]:
    """A setting with a value that fits its annotation."""
    return st.sampled_from(keys).flatmap(_fitting)


def _fitting(key: Key) -> st.SearchStrategy[str]:
    group, option, name = key
    if not group:
        values = st.sampled_from((2, 3)) if name == "epochs" else fitting(ROOTS[name])
        return values.map(lambda value: f"{name}={typed(value)}")
    content = written(group, option)
    default = content.get(name)
    values = parts(group) if name == "parts" else fitting(known(group, option)[name], default)
    if default is not None and not (isinstance(default, int) and default > 16):
        values = st.one_of(st.just(default), values)
    plus = "" if name in content else "+"
    return values.map(lambda value: f"{plus}{group}.{name}={typed(value)}")


def parts(group: str) -> st.SearchStrategy[Any]:
    """Options of the group one after the other, most of them with a length that fits; the last
    without."""
    option = st.fixed_dictionaries(
        {"option": st.sampled_from(sorted(option_files.find_options(group)))}
    )
    sized = st.fixed_dictionaries({"length": st.sampled_from((1, 1, 2))})
    scaled = st.sampled_from(({}, {}, {"scale": 0.5}))
    first = st.tuples(option, sized, scaled).map(lambda drawn: {**drawn[0], **drawn[1], **drawn[2]})
    last = st.tuples(option, scaled).map(lambda drawn: {**drawn[0], **drawn[1]})
    return st.tuples(st.lists(first, min_size=1, max_size=2), last).map(
        lambda drawn: [*drawn[0], drawn[1]]
    )


def broken_override(keys: Sequence[Key], group: str) -> st.SearchStrategy[str]:
    """An override that is wrong, or may well be."""
    wild = st.sampled_from(keys).flatmap(_wild)
    strange = [
        (g, option, name)
        for g in ([group] if group in GROUPS else GROUPS)
        for option in option_files.find_options(g)
        for name in known(g, option)
    ] or list(keys)
    other = st.sampled_from(strange).flatmap(_wild)
    prefixed = st.tuples(st.sampled_from(("+", "++", "~")), st.one_of(wild, _choice())).map("".join)
    words = [*map(_dotted, keys), *GROUPS, EXPERIMENT_GROUP]
    misspelt = st.tuples(st.sampled_from(words).flatmap(_misspelt), st.sampled_from(("=1", "=a")))
    option = _choice().flatmap(_misspelt)
    tokens = st.sampled_from(TOKENS)
    return st.one_of(
        wild, wild, wild, other, prefixed, misspelt.map("".join), option, tokens
    ).filter(lambda text: text not in main.VERBS)


def _dotted(key: Key) -> str:
    return ".".join(filter(None, (key[0], key[2])))


def _wild(key: Key) -> st.SearchStrategy[str]:
    costly = key[2] in COSTLY
    values = [v for v in WILD if not costly or not isinstance(v, int) or v < 16]
    raw = [text for text in RAW if not costly or text != "${seed}"]
    texts = st.one_of(
        st.sampled_from(values).map(typed), st.sampled_from(raw), _nested().map(typed)
    )
    group, option, name = key
    plus = "+" if group and name not in written(group, option) else ""
    return texts.map(lambda text: f"{plus}{_dotted(key)}={text}")


def _nested() -> st.SearchStrategy[Any]:
    """Rules, lists of names and lists of such lists, most of them none of a kind that is taken."""
    rules = st.dictionaries(
        st.sampled_from(RULE), st.sampled_from([*NUMBERS, *PATTERNS, None, [], [0.9, 0.99]])
    )
    names = st.lists(st.sampled_from([*PATTERNS, *WORDS]), max_size=3)
    return st.one_of(rules, names, st.lists(st.one_of(rules, names), max_size=2))


def _choice() -> st.SearchStrategy[str]:
    return st.sampled_from(
        [
            f"{group}={name}"
            for group in (*GROUPS, EXPERIMENT_GROUP)
            for name in option_files.find_options(group)
        ]
    )


def _misspelt(word: str) -> st.SearchStrategy[str]:
    """A letter lost, doubled, or exchanged for another."""
    where = st.integers(0, len(word) - 1)
    return st.tuples(where, st.sampled_from(("", "double", "x"))).map(
        lambda drawn: (
            word[: drawn[0]] + drawn[1].replace("double", word[drawn[0]] * 2) + word[drawn[0] + 1 :]
        )
    )
