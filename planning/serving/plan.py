"""From a model in the spec to its containers: one job that fetches weights, and one engine a replica."""

from planning.containers import ContainerPlan, VolumeMount
from planning.names import MODELS_VOLUME, replica_service, uid_of
from planning.plans import ModelPlan
from planning.serving.engines import vllm
from planning.serving.weights import MODELS_DIR, fetch_job, weights_of
from stack_configs.schema.models import Model, Replica
from stack_configs.schema.stack import StackSpec


def plan_model(name: str, spec: StackSpec) -> ModelPlan:
    """The containers of the model that clients call `name`."""
    model = spec.file.models[name]
    gpus = [gpus_of(replica, spec) for replica in model.replicas]
    return ModelPlan(
        name=name,
        fetch=fetch_job(name, model, spec, gpus[0]),
        replicas=tuple(_replica(name, index, model, spec, mine) for index, mine in enumerate(gpus)),
    )


def gpus_of(replica: Replica, spec: StackSpec) -> tuple[str, ...]:
    """The replica's GPUs: those it names, or the first of this machine when it is to run here and names none."""
    if replica.gpus:
        return replica.gpus
    local = spec.file.hosts[replica.host].connection.kind == "local"
    return spec.local_gpus[:1] if local else ()


def _replica(name: str, index: int, model: Model, spec: StackSpec, gpus: tuple[str, ...]) -> ContainerPlan:
    service = replica_service(name, index)
    image = spec.images[vllm.image(gpus)]
    user = uid_of(service)
    return ContainerPlan(
        service=service,
        component="serving",
        image=image.ref,
        user=f"{user}:{user}",
        command=vllm.argv(name, model, f"{MODELS_DIR}/{weights_of(model, spec).folder}", gpus),
        env=vllm.env(gpus),
        files=vllm.files(),
        mounts=(VolumeMount(source=MODELS_VOLUME, target=MODELS_DIR),),
        tmpfs=vllm.tmpfs(gpus),
        networks=("inner",),
        memory_mib=model.memory_mib,
        shm_mib=vllm.shm_mib(gpus),
        max_processes=vllm.max_processes(gpus),
        health=vllm.health(name, model),
        ready_within_s=model.start_timeout_s,
        stop_grace_s=model.drain_timeout_s + vllm.STOP_MARGIN_S,
        gpus=gpus,
        comes_back=True,
        starts_in_s=image.starts_in_s,
    )
