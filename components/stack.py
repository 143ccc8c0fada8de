"""A whole stack: the only place where the domains meet."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from pulumi import ComponentResource, Input, Output, Resource, ResourceOptions

from components.connection import connected
from components.containers import Runtime, make_networks, make_provider, make_volume
from components.gateway.gateway import Gateway, GatewayArgs
from components.hosts.gpu_host import GpuHost, GpuHostArgs
from components.naming import Names
from components.observability.monitoring import Monitoring, MonitoringArgs
from components.remote import Invite, Reach, no_invitation, no_question
from components.serving.model_server import ModelServer, ModelServerArgs
from components.ssh import command_on, write_ssh_files
from planning.names import MODELS_VOLUME
from planning.plans import StackPlan


async def nobody_writes() -> None:
    """For stacks that own no policy."""


@dataclass(frozen=True, kw_only=True)
class InferenceStackArgs:
    plan: StackPlan
    reach: Reach = no_question
    """Asked before each step of a host over SSH."""
    invite: Invite = no_invitation
    """Asked before a host joins the mesh."""
    write_policy: Callable[[], Awaitable[None]] = nobody_writes
    """See components.network.mesh_policy.Write."""
    mesh_key: Output[str] | None = None
    """Of the certificate that the API in the mesh has."""


class InferenceStack(ComponentResource):
    """Hosts, and the networks, volumes, models, gateway and monitoring on them, of one stack."""

    url: str | None
    """None while the gateway's host waits."""
    models: list[str]
    monitoring: dict[str, str]
    outside: Mapping[str, str]
    """Hostname → its address on the internet; empty without an ingress."""
    service_tokens: Mapping[str, Mapping[str, Output[str]]]
    """Name → what a machine sends to pass Access."""

    def __init__(self, name: str, args: InferenceStackArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("inference-stack:index:InferenceStack", name, None, opts)
        plan = args.plan
        child = ResourceOptions(parent=self)
        prepared = self._prepared(args, child)
        runtimes = self._runtimes(plan, prepared)
        servers: dict[str, ModelServer] = {}
        for model in plan.models:
            after = servers[model.after].ready if model.after else ()
            arguments = ModelServerArgs(plan=model, runtimes=runtimes, after=after)
            servers[model.name] = ModelServer(model.name, arguments, child)
        self.url = None
        self.outside, self.service_tokens = {}, {}
        if plan.gateway:
            gateway = Gateway(
                "gateway", GatewayArgs(plan=plan.gateway, runtimes=runtimes, mesh_key=args.mesh_key), child
            )
            self.url = gateway.url
            if plan.ingress:
                from components.network.tunnel_ingress import TunnelIngress, TunnelIngressArgs

                tunnel = TunnelIngressArgs(plan=plan.ingress, runtimes=runtimes, gateway=gateway.ready)
                ingress = TunnelIngress("ingress", tunnel, child)
                self.outside, self.service_tokens = ingress.urls, ingress.service_tokens
        monitoring = Monitoring("monitoring", MonitoringArgs(plan=plan.observability, runtimes=runtimes), child)
        self.models = [model.name for model in plan.models]
        self.monitoring = monitoring.urls
        self.register_outputs({"url": self.url, "models": self.models, "monitoring": self.monitoring})

    def _prepared(self, args: InferenceStackArgs, child: ResourceOptions) -> Mapping[str, Sequence[Resource]]:
        """Hosts over SSH → their last step. They join a mesh whose policy is written already, if it is this stack's."""
        policy = None
        if args.plan.policy:
            from components.network.mesh_policy import MeshPolicy, MeshPolicyArgs

            policy = MeshPolicy("policy", MeshPolicyArgs(plan=args.plan.policy, write=args.write_policy), child)
        hosts = {
            plan.name: GpuHost(
                plan.name,
                GpuHostArgs(plan=plan, reach=args.reach, invite=args.invite, after=policy.written if policy else ()),
                child,
            )
            for plan in args.plan.hosts
        }
        if policy:
            policy.prove([resource for host in hosts.values() for resource in host.joined])
        return {name: host.ready for name, host in hosts.items()}

    def _runtimes(self, plan: StackPlan, prepared: Mapping[str, Sequence[Resource]]) -> dict[str, Runtime]:
        """Each host that runs something, ready to take containers. `prepared`: hosts over SSH → their last step."""
        config = write_ssh_files(plan.stack, plan.hosts) if prepared else None
        runtimes: dict[str, Runtime] = {}
        for host in dict.fromkeys(container.host for container in plan.containers):
            names = Names(plan.stack)
            child = ResourceOptions(parent=self)
            provider, on, hooks = None, "", None
            shell: tuple[str, ...] = ()
            if config and host in prepared:
                on, shell = host, command_on(host, config)
                provider = make_provider(host, config, ResourceOptions(parent=self, depends_on=prepared[host]))
                hooks = connected(host, config)
                child = ResourceOptions(parent=self, provider=provider, hooks=hooks)
            volumes: dict[str, Input[str]] = {}
            for container in plan.containers:
                for mount in container.mounts if container.host == host else ():
                    if mount.source.startswith("/") or mount.source in volumes:
                        continue
                    weights = mount.source == MODELS_VOLUME
                    volumes[mount.source] = make_volume(
                        names,
                        mount.source,
                        container.component,
                        # Weights are slow to fetch again: they outlive the stack.
                        ResourceOptions.merge(child, ResourceOptions(retain_on_delete=True if weights else None)),
                        host=on,
                        folder=plan.models_dirs.get(host) if weights else None,
                    )
            tunnel = any("tunnel" in c.networks for c in plan.containers if c.host == host)
            networks = make_networks(names, child, host=on, tunnel=tunnel)
            runtimes[host] = Runtime(
                names=names, networks=networks, volumes=volumes, provider=provider, shell=shell, hooks=hooks
            )
        return runtimes
