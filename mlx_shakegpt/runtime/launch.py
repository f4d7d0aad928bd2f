"""What a launcher (mlx.launch, mpirun) told this process of its place among several.

Reads the environment only. The variables are MLX's own (docs, "Distributed Communication"), Open
MPI's and MPICH's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Launch:
    """One of `size` processes that were started together; `local_size` of them on this machine."""

    backend: str | None = None  # of mx.distributed; None: alone
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """This process's place. A launcher of a single process leaves it alone.

    Raises ValueError where the environment contradicts itself.
    """
    try:
        return _ring(environment) or _devices(environment) or _mpi(environment) or Launch()
    except (KeyError, TypeError, AttributeError, IndexError, OSError, ValueError) as error:
        raise ValueError(
            f"the launcher's environment cannot be read ({type(error).__name__}: {error}); start "
            "with mlx.launch or mpirun, or unset MLX_RANK and MLX_HOSTFILE"
        ) from None


def _ring(environment: Mapping[str, str]) -> Launch | None:
    """Hosts are lists of addresses with ports, in the order of their ranks."""
    if "MLX_HOSTFILE" not in environment or "MLX_RANK" not in environment:
        return None
    # mlx.launch writes an empty file for a single process, at which MLX itself would crash.
    hosts = json.loads(
        Path(environment["MLX_HOSTFILE"]).read_text(encoding="utf-8").strip() or "[]"
    )
    if len(hosts) < 2:
        return None
    machines = [addresses[0].rpartition(":")[0] for addresses in hosts]
    rank = int(environment["MLX_RANK"])
    before = machines[:rank]
    return Launch(
        "ring", rank, len(hosts), before.count(machines[rank]), machines.count(machines[rank])
    )


def _devices(environment: Mapping[str, str]) -> Launch | None:
    """JACCL (Thunderbolt RDMA; a row of devices for each rank) and NCCL (CUDA)."""
    if "MLX_IBV_DEVICES" in environment and "MLX_RANK" in environment:
        size = len(json.loads(Path(environment["MLX_IBV_DEVICES"]).read_text(encoding="utf-8")))
        return Launch("jaccl", int(environment["MLX_RANK"]), size) if size > 1 else None
    if int(environment.get("MLX_WORLD_SIZE", 1)) > 1:
        return Launch("nccl", int(environment["MLX_RANK"]), int(environment["MLX_WORLD_SIZE"]))
    return None


def _mpi(environment: Mapping[str, str]) -> Launch | None:
    ours = "OMPI_COMM_WORLD"
    for size, rank, local_size, local_rank in (
        (f"{ours}_SIZE", f"{ours}_RANK", f"{ours}_LOCAL_SIZE", f"{ours}_LOCAL_RANK"),
        ("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
    ):
        if int(environment.get(size, 1)) > 1:
            place = int(environment.get(local_rank, 0)), int(environment.get(local_size, 1))
            return Launch("mpi", int(environment[rank]), int(environment[size]), *place)
    return None
