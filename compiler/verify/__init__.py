"""Proofs about modules between passes, and about finished plans whoever wrote them."""

from rldsl.compiler.verify.module import InvalidModuleError, verify_module
from rldsl.compiler.verify.plan import PROVED, verify_plan

__all__ = ["PROVED", "InvalidModuleError", "verify_module", "verify_plan"]
