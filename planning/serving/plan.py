"""From a model in the spec to its containers: jobs on each host that come first, and one engine a replica."""

from planning.containers import ContainerPlan, VolumeMount
from planning.names import MODELS_VOLUME, uid_of
from planning.placement import PlacedReplica, placed
from planning.plans import ModelPlan
from planning.serving.check import check_job
from planning.serving.engines import vllm
from planning.serving.weights import MODELS_DIR, fetch_job, weights_of
from stack_configs.schema.models import Replica
from stack_configs.schema.stack import StackSpec


def plan_model(name: str, spec: StackSpec) -> ModelPlan:
    """The containers of the model that clients call `name`."""
    model = spec.file.models[name]
    mine = [replica for replica in placed(spec) if replica.model == name]
    first = {replica.host: replica for replica in reversed(mine)}
    replicas = tuple(_replica(replica, spec) for replica in mine)
    one_a_host = {replica.host: replica for replica in reversed(replicas)}
    return ModelPlan(
        name=name,
        fetches=tuple(
            fetch_job(name, host, model, spec, gpus_of(replica.replica, spec))
            for host, replica in sorted(first.items(), key=lambda item: mine.index(item[1]))
        ),
        # What the schema alone decides is known to be understood (tests/contract/test_vllm_args.py).
        checks=tuple(check_job(name, replica, spec) for replica in one_a_host.values()) if model.extra_args else (),
        replicas=replicas,
    )


def gpus_of(replica: Replica, spec: StackSpec) -> tuple[str, ...]:
    """The replica's GPUs: those it names, or the first of this machine when it is to run here and names none."""
    if replica.gpus:
        return replica.gpus
    local = spec.file.hosts[replica.host].connection.kind == "local"
    return spec.local_gpus[:1] if local else ()


def _replica(placed: PlacedReplica, spec: StackSpec) -> ContainerPlan:
    name, service, model = placed.model, placed.service, spec.file.models[placed.model]
    gpus = gpus_of(placed.replica, spec)
    image = spec.images[vllm.image(gpus)]
    user = uid_of(service)
    return ContainerPlan(
        service=service,
        host=placed.host,
        component="serving",
        image=image.ref,
        user=f"{user}:{user}",
        command=vllm.argv(name, model, f"{MODELS_DIR}/{weights_of(model, spec).folder}", gpus),
        env=vllm.env(gpus, service),
        mounts=(VolumeMount(source=MODELS_VOLUME, target=MODELS_DIR), *vllm.compiled(gpus)),
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
