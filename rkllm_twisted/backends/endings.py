"""When a run of a blocking runtime has gone well."""

from __future__ import annotations

from rkllm_twisted.errors import RuntimeCallFailed
from rkllm_twisted.values import RKLLMPerfStat


def failureOf(perf: RKLLMPerfStat | None, hasError: bool) -> RuntimeCallFailed | None:
    """Why a run that has returned and was not aborted has failed all the same; None if it has not.

    Args:
        perf: Of its FINISH; None if there was none.
        hasError: Whether it reported the state ERROR.
    """
    if perf is not None and not hasError:
        return None
    what = "the runtime reported an error" if hasError else "the runtime returned without finishing"
    return RuntimeCallFailed(what, function="rkllm_run", status=0)
