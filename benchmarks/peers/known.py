"""Every contender by its name, ours first."""

from benchmarks.peers.bentoml import BENTOML
from benchmarks.peers.contender import Contender
from benchmarks.peers.fastapi import FASTAPI
from benchmarks.peers.litserve import LITSERVE
from benchmarks.peers.mlserver import MLSERVER
from benchmarks.peers.paceline import PACELINE, PACELINE_AGAIN, PACELINE_TWO_FRONTS
from benchmarks.peers.ray import RAY
from benchmarks.peers.triton import TRITON, TRITON_AT_ONCE

CONTENDERS: dict[str, Contender] = {
    each.name: each
    for each in (
        PACELINE,
        PACELINE_TWO_FRONTS,
        PACELINE_AGAIN,
        TRITON,
        TRITON_AT_ONCE,
        FASTAPI,
        RAY,
        MLSERVER,
        LITSERVE,
        BENTOML,
    )
}
PYTHON_SERVERS = tuple(each.name for each in (FASTAPI, RAY, MLSERVER, LITSERVE, BENTOML))
