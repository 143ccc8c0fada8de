"""The gate's rules about GPUs: what drives them, what runs on them, and whether they are there. Pure."""

from collections.abc import Iterator

from planning.hosts import gate_table as table
from planning.hosts.checked import Checked, Found, Path, branches, device_floor, device_of, generation
from planning.hosts.installed import branch_of, driver_pin, installed, numbers
from stack_configs.schema.facts import Gpu

UNIFIED_SHARE = 0.8
"""The most of a memory that GPU and system share which models may claim; an estimate, nobody measured it."""


def _generations(c: Checked) -> Iterator[Found]:
    """Each GPU of the spec against modules, branch, CUDA; where no driver can name them yet, all cards of the bus."""
    if c.facts is None:
        return
    wrong = {gpu.pci_address: found for gpu in c.cards if (found := tuple(_card(c, gpu)))}
    named = any(gpu.uuid in c.host.gpus for gpu in c.cards)
    if not named and len(c.cards) - len(wrong) >= max(1, len(c.host.gpus)):
        return  # enough are left: another card may drive a screen
    yield from dict.fromkeys(found for group in wrong.values() for found in group)


def _card(c: Checked, gpu: Gpu) -> Iterator[Found]:
    row, driver = generation(gpu), c.host.driver
    if row is None or not c.is_gpu_host:
        return
    loaded = c.facts.driver if c.facts else None
    modules = driver.modules if driver else loaded.modules if loaded else None
    branch = int(driver.branch) if driver else c.loaded_branch
    card = card_name(gpu, row)
    if modules and modules not in row.modules:
        yield (
            (*c.at, "driver", "modules") if driver else c.at,
            f"{card} has {modules} modules, and only the {row.modules[0]} ones drive it",
            f"write `modules: {row.modules[0]}`"
            if driver
            else f"install those there, {c.look_again}; or under `driver:` write `modules: {row.modules[0]}`",
        )
    at = (*c.at, "driver", "branch") if driver else c.at
    last, first = row.last_branch, row.first_branch
    if branch and last and branch > last:
        yield (at, f"{card} is not driven by branch {branch}: {last} is the last", branches(c))
    if branch and first and branch < first:
        yield (at, f"{card} is not driven by branch {branch}: {first} is the first", branches(c))
    wanted, floor = driver_pin(c.host, c.spec, c.facts), device_floor(gpu)
    if wanted and floor and branch_of(wanted) == branch_of(floor) and numbers(wanted) < numbers(floor):
        yield (at, f"{card} needs driver {floor} or newer, and the version set has {wanted}", branches(c))
    yield from _engine(c, gpu, row)


def _engine(c: Checked, gpu: Gpu, row: table.Generation) -> Iterator[Found]:
    """Whether vLLM's image has code for the card."""
    if not c.cuda:
        return
    version, card = ".".join(map(str, c.cuda)), card_name(gpu, row)
    floor = next((floor.compute for floor in table.ENGINE_FLOORS if floor.cuda == c.cuda[0]), None)
    has = gpu.compute_capability or max(row.compute, key=numbers, default=None)
    if floor and has and numbers(has) < floor:
        yield (
            _path(c, gpu),
            f"{card} can't run vLLM's image: with CUDA {version} that begins at compute capability "
            f"{'.'.join(map(str, floor))}, and the card has {has}",
            "leave the card out, or take a version set whose `vllm-cuda` has an older CUDA",
        )
    if row.first_cuda and c.cuda < row.first_cuda:
        yield (
            _path(c, gpu),
            f"{card} can't run vLLM's image: that has CUDA {version}, and the card needs "
            f"{'.'.join(map(str, row.first_cuda))} or newer",
            "take a version set whose `vllm-cuda` has a newer CUDA",
        )


def _path(c: Checked, gpu: Gpu) -> Path:
    """Where the spec names a GPU."""
    return (*c.at, "gpus", c.host.gpus.index(gpu.uuid)) if gpu.uuid in c.host.gpus else (*c.at, "gpus")


def _missing_gpus(c: Checked) -> Iterator[Found]:
    if c.facts is None:
        return
    at, on_bus = (*c.at, "gpus"), len(c.facts.gpus)
    if any(problem.startswith("the PCI bus") for problem in c.facts.problems):
        return  # a card that could not be read is not absent
    if len(c.host.gpus) > on_bus:
        yield (
            at,
            f"names {len(c.host.gpus)} GPUs, and the machine has {on_bus}",
            f"look whether a card is missing, unpowered or given to a virtual machine, {c.look_again}; "
            "or take it out, and out of its replicas",
        )
        return
    seen = [gpu.uuid for gpu in c.facts.gpus if gpu.uuid]
    lost = [gpu.pci_address for gpu in c.facts.gpus if gpu.uuid is None]
    if not seen:
        return  # no driver yet, or one that doesn't answer: nobody can say which cards these are
    for index, uuid in enumerate(c.host.gpus):
        if uuid in seen:
            continue
        if lost:
            yield (
                (*at, index),
                f"{uuid} can't be seen: the machine has {on_bus} cards, and the driver lists {len(seen)}; "
                f"{', '.join(lost)} may have fallen off the bus",
                "look at `sudo dmesg | grep -i xid` there, then switch the machine off and on, "
                f"{c.look_again}; or take the GPU out, and out of its replicas",
            )
        else:
            others = [other for other in seen if other not in c.host.gpus]
            yield (
                (*at, index),
                f"{uuid} isn't in this machine",
                f"write {' or '.join(others)}" if others else "take it out, and out of its replicas",
            )


def _mig(c: Checked) -> Iterator[Found]:
    for gpu in c.facts.gpus if c.facts else ():
        if gpu.uuid in c.host.gpus and gpu.mig == "on":
            yield (
                _path(c, gpu),
                f"{gpu.uuid} is divided (MIG is on): no program can use it as a whole",
                f"`sudo nvidia-smi -i {gpu.uuid} -mig 0` there, {c.look_again}",
            )


def _nvswitch(c: Checked) -> Iterator[Found]:
    if c.facts is None or not c.is_gpu_host:
        return
    on_board = [gpu for gpu in c.facts.gpus if device_of(gpu) in table.NVSWITCH_DEVICES]
    # Blackwell's switches are on no PCI bus, and those of a virtual machine may be the hypervisor's.
    switched = c.facts.nvswitches > 0 or (len(on_board) >= table.NVSWITCH_FROM and c.facts.virtual is None)
    driver = c.host.driver
    if driver and switched and not driver.fabric_manager:
        yield (
            (*c.at, "driver", "fabric_manager"),
            f"is off, and the {len(c.facts.gpus)} GPUs are joined by NVSwitches: without it CUDA doesn't start at all",
            "write `fabric_manager: true`",
        )
    elif driver and driver.fabric_manager and not on_board and not switched:
        yield (
            (*c.at, "driver", "fabric_manager"),
            "is on, and this machine has no NVSwitch: the service would fail at every start",
            "leave it out",
        )
    elif driver is None and switched and c.facts.driver.loaded:
        version = next((installed(c.facts, name) for name in c.facts.packages if "fabricmanager" in name), None)
        if version != c.facts.driver.loaded:
            yield (
                c.at,
                f"has driver {c.facts.driver.loaded} and fabric manager {version or 'not installed'}: "
                "they must be identical on NVSwitch systems",
                f"install the fabric manager of that version, {c.look_again}; or let `driver` manage both",
            )


def _unknown_cards(c: Checked) -> Iterator[Found]:
    for gpu in c.facts.gpus if c.facts else ():
        if generation(gpu) is None and (gpu.uuid in c.host.gpus or gpu.uuid is None):
            yield (
                c.at,
                f"has {gpu.name or 'a card'} ({gpu.pci_id}) that the gate doesn't know: nothing was checked for it",
                "see docs/reference/compatibility.md for what is known",
            )


def _unified_memory(c: Checked) -> Iterator[Found]:
    for gpu in c.facts.gpus if c.facts else ():
        if gpu.memory_mib is not None:
            continue
        models = c.spec.file.models.items()
        users = {
            name: model.gpu_memory_utilization
            for name, model in models
            if any(gpu.uuid in replica.gpus for replica in model.replicas)
        }
        if (share := sum(users.values())) > UNIFIED_SHARE:
            yield (
                ("models", next(iter(users)), "gpu_memory_utilization"),
                f"{share:g} of {gpu.uuid}'s memory, which is the machine's own: little is left for everything else",
                f"write {UNIFIED_SHARE:g} or less",
            )


def card_name(gpu: Gpu, row: table.Generation) -> str:
    return f"{gpu.name or f'the card at {gpu.pci_address}'} ({row.name})"


CARD_REFUSALS = (_generations, _missing_gpus, _mig, _nvswitch)
CARD_WARNINGS = (_unknown_cards, _unified_memory)
