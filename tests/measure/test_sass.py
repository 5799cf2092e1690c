"""Loads on their way, counted in machine code that is written out here: what a use ends, what a copy waits for."""

from __future__ import annotations

import pytest

from jobs.measure.gpu.kernels.sass import loads_in_flight

TWO_OF_THREE = """
        /*0100*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0110*/              @!P0 LDG.E.128 R8, desc[UR4][R12.64+0x10] ;
        /*0120*/                   FADD R20, R4, R5 ;
        /*0130*/                   LDG.E.128 R4, desc[UR4][R14.64] ;
        /*0140*/                   STG.E.128 desc[UR4][R16.64], R8 ;
        /*0150*/                   EXIT ;
"""
ONE_BY_ONE = """
        /*0100*/                   LDG.E.64 R4, [R2.64] ;
        /*0110*/                   STS.64 [R0], R4 ;
        /*0120*/                   LDG.E.64 R4, [R6.64] ;
        /*0130*/                   STS.64 [R0+0x8], R4 ;
"""
POINTERS = """
        /*0100*/                   LDG.E.64 R4, [R2.64] ;
        /*0110*/                   LDG.E.64 R6, [R4.64] ;
        /*0120*/                   LDG.E.64 R8, [R4.64+0x8] ;
        /*0130*/                   STG.E.128 [R10.64], R8 ;
"""
BYTES = """
        /*0100*/                   LDG.E R4, [R2.64] ;
        /*0110*/                   LDG.E.U8 R5, [R2.64+0x4] ;
        /*0120*/                   LDG.E R6, [R2.64+0x8] ;
"""
COPIES = """
        /*0100*/              @P1  LDGSTS.E.64 [R5], [R2.64] ;
        /*0110*/                   LDGSTS.E.64 [R5+0x8], [R2.64+0x8] ;
        /*0120*/                   LDGDEPBAR ;
        /*0130*/                   DEPBAR.LE SB0, 0x0 ;
        /*0140*/                   LDGSTS.E.64 [R5], [R2.64] ;
"""


@pytest.mark.parametrize(
    ("sass", "kind", "most"),
    [
        (TWO_OF_THREE, "LDG.E.128", 2),
        (TWO_OF_THREE, "LDG.E.64", 0),
        (ONE_BY_ONE, "LDG.E.64", 1),
        (POINTERS, "LDG.E.64", 2),
        (BYTES, "LDG.E", 2),
        (BYTES, "LDG.E.U8", 1),
        (COPIES, "LDGSTS.E.64", 2),
    ],
)
def test_loads_in_flight(sass, kind, most):
    assert loads_in_flight(sass, kind) == most
