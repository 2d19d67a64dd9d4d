"""Ray Serve: hayhooks in replicas, on any number of nodes.

    serve run hayhooks.integrations.ray:hayhooks_app pipelines_dir=/srv/pipelines

Each replica serves the whole directory (``ray_replica.py``), or each pipeline has replicas of its own
behind an ingress (``ray_pipelines.py``, ``ray_ingress.py``).
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from ray import serve

from hayhooks.errors import closest
from hayhooks.integrations.ray_ingress import Ingress
from hayhooks.integrations.ray_pipelines import ROLLOUTS, Rollouts
from hayhooks.integrations.ray_replica import Replica, ReplicaRegistry, coordinator, ray_deployment
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
    def _names_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for name in settings.keys() - Settings.model_fields.keys():
            meant = closest(name, Settings.model_fields)
            raise ValueError(f"there is no setting {name!r}" + (f"; did you mean {meant!r}?" if meant else ""))
        return settings


def hayhooks_app(options: RayOptions = RayOptions()) -> serve.Application:  # noqa: B008 - Ray wants one parameter
    """Build the Serve application: for ``serve run``, ``serve.run`` and ``import_path`` in Ray's configuration file.

    Raises ``pydantic.ValidationError`` for unknown options and settings, ValueError or TypeError for what Ray refuses.
    """
    registry = coordinator(ReplicaRegistry, "replicas").bind()
    if options.shape == "replicated":
        replica = ray_deployment(Replica, "hayhooks", options.ray_options)
        return replica.bind(options.pipelines_dir, options.settings, registry)
    ingress = ray_deployment(Ingress, "hayhooks", options.ray_options)
    rollouts = coordinator(Rollouts, ROLLOUTS).bind(options.settings, registry)
    return ingress.bind(options.pipelines_dir, options.settings, registry, rollouts)
