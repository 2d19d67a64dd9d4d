"""Ray Serve: hayhooks in replicas, on any number of nodes.

    serve run hayhooks.integrations.ray:hayhooks_app pipelines_dir=/srv/pipelines

Each replica serves the whole directory (``ray_replica.py``), or each pipeline has replicas of its own
(``ray_pipelines.py``).
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from ray import serve

from hayhooks.integrations.ray_pipelines import DEPLOYER, Configuration, Deployer, Ingress
from hayhooks.integrations.ray_replica import Replica, ReplicaTable, coordinator, deployment
from hayhooks.settings import Settings


class RayOptions(BaseModel):
    """Options of ``hayhooks_app``, in Python or as ``args`` in Ray's configuration file."""

    model_config = ConfigDict(extra="forbid")

    pipelines_dir: str = Field(
        "",
        description="The pipelines directory on each node, or `git+URL[@REF][#FOLDER]`, which each replica checks out "
        "and follows. Default: `HAYHOOKS_PIPELINES_DIR`, where the replicas run.",
    )
    shape: Literal["replicated", "per_pipeline"] = Field(
        "replicated",
        description="`replicated`: each replica serves the whole directory. `per_pipeline`: each pipeline is a Ray "
        "deployment of its own, with the `ray_options` of its wrapper.",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of hayhooks by name, in lower case and without `HAYHOOKS_`. They go before the "
        "environment's.",
    )
    ray_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of the deployment that Ray sends requests to: what `serve.deployment` takes, and those of "
        "its actors, such as `num_cpus`.",
    )

    @field_validator("settings")
    @classmethod
    def _has_no_unknown(cls, settings: dict[str, Any]) -> dict[str, Any]:
        if unknown := settings.keys() - Settings.model_fields.keys():
            raise ValueError(f"hayhooks has no settings {sorted(unknown)}")
        return settings


def hayhooks_app(options: RayOptions = RayOptions()) -> serve.Application:  # noqa: B008 - Ray wants one parameter
    """Build the Serve application: for ``serve run``, ``serve.run`` and ``import_path`` in Ray's configuration file.

    Raises ``pydantic.ValidationError`` for options that there are not, and ValueError for those that Ray refuses.
    """
    table = coordinator(ReplicaTable, "replicas").bind()
    if options.shape == "replicated":
        replica = deployment(Replica, "hayhooks", options.ray_options)
        return replica.bind(options.pipelines_dir, options.settings, table)
    ingress = deployment(Ingress, "hayhooks", options.ray_options)
    configuration = Configuration(options.pipelines_dir, options.settings)
    deployer = coordinator(Deployer, DEPLOYER).bind(configuration, table)
    return ingress.bind(configuration, table, deployer)
