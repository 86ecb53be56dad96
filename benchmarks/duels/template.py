"""A training script as people write it with Hydra and MLflow: one file, one config, one run.

python template.py job=FOLDER seed=0 clip=norm scheduler=step frozen=3
"""

import hydra
import mlflow
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from duels.job import Job
from duels.plain import evaluate


@hydra.main(version_base="1.3", config_path=".", config_name="template")
def main(config: DictConfig) -> None:
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment(config.experiment)
    job = Job.read(f"{config.job}/{config.seed}.pt")
    network = job.network()
    frozen = network.features[: 7 * config.frozen]
    frozen.requires_grad_(False)
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learnt, **job.sgd)
    scheduler = None
    if config.scheduler == "exponential":
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=config.gamma)
    learns, looks = job.loaders()
    with mlflow.start_run():
        mlflow.log_params(dict(config))
        for epoch in range(job.epochs):
            network.train()
            frozen.eval()
            total = 0.0
            for inputs, targets in learns:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(network(inputs), targets)
                loss.backward()
                if config.clip == "norm":
                    nn.utils.clip_grad_norm_(learnt, config.max_norm)
                optimizer.step()
                total += loss.item()
            if scheduler:
                scheduler.step()
            val_loss, accuracy = evaluate(network, looks)
            mlflow.log_metrics(
                {"train/loss": total / len(learns), "val/loss": val_loss, "val/accuracy": accuracy},
                step=epoch + 1,
            )
            print(f"epoch {epoch + 1}: val/loss {val_loss:.6f}, val/accuracy {accuracy:.4f}")
        torch.save(network.state_dict(), "model.pt")
        mlflow.log_artifact("model.pt")
        mlflow.log_text(OmegaConf.to_yaml(config), "config.yaml")


if __name__ == "__main__":
    main()
