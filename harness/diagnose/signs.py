"""Hard signs: what can be seen in a curve that no ordinary training shows, each with the numbers that show it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from harness.diagnose.against import runs_differ
from harness.diagnose.broken import (
    alive,
    broken_steps,
    healthy_part,
    is_frozen,
    is_policy,
    without_end,
    zeros_for_nan,
)
from harness.diagnose.cases import Case
from harness.diagnose.curve import Curve
from harness.diagnose.rising import rise, rising_at_the_end, usual

ALONE = 5  # sound steps after a single broken one
STUCK = 5  # equal losses in a row
SILENCE_SECONDS = 10.0
SILENCE = 20  # times the longest step so far
SILENCE_BEFORE_FIRST = 300.0  # seconds without a first step
ABSURD = 125.0
"""Ten times the logarithm of the largest vocabulary: no mean over tokens begins there."""
VOCABULARIES = {
    30522: "BERT",
    32000: "Llama 2, Mistral",
    50257: "GPT-2",
    50304: "GPT-2, padded",
    64000: "Yi",
    65024: "Falcon, ChatGLM",
    100352: "OLMo 2, Phi-4",
    128256: "Llama 3",
    151936: "Qwen 2.5, small",
    152064: "Qwen 2.5, large",
    256000: "Gemma",
}


def _what(case: Case, index: int) -> str:
    """What is wrong with a step, in words."""
    curve = case.curve
    if zeros_for_nan(curve)[index]:
        return "the loss is exactly 0 (Hugging Face's Trainer prints NaN as 0.0)"
    return "the loss is not finite" if curve.bad_loss[index] else "the gradient norm is not finite"


def broken_at_once(case: Case) -> str | None:
    """Not finite in the first step or the second (the first with secondary partitions of this run's own making)."""
    found = broken_steps(case)
    if not len(found) or found[0] > 1:
        return None
    alone = f", and there alone of {len(case.curve)} steps" if len(found) == 1 < len(case.curve) else ""
    return f"{_what(case, int(found[0]))} at step {case.curve.step[found[0]]} already{alone}"


def broken_later(case: Case) -> str | None:
    found = broken_steps(case)
    if not len(found) or found[0] <= 1:
        return None
    first, rest = int(found[0]), len(case.curve) - int(found[0])
    step = case.curve.step[first]
    if len(found) == 1 < rest:
        where = f"at step {step} alone; {'the one' if rest == 2 else f'all {rest - 1}'} after it"
        return f"{_what(case, first)} {where} {'is' if rest == 2 else 'are'} sound"
    gradient = np.flatnonzero(case.curve.bad_gradient[:first])
    before = (
        f"the gradient norm from step {case.curve.step[gradient[0]]}"
        if len(gradient)
        else "before, all is finite"
    )
    lasting = f" from step {step} on" if len(found) == rest else f", first at step {step}"
    return f"{_what(case, first)}{lasting}; {before}"


def broken_alone(case: Case) -> str | None:
    """One broken step with five sound ones after it at least: what broke it did not reach the weights."""
    found = broken_steps(case)
    if len(found) != 1 or len(case.curve) - int(found[0]) <= ALONE:
        return None
    return (
        "a single step is broken, and the weights took no harm: as where one batch has nothing to predict, or a step "
        "is skipped"
    )


def stays_broken(case: Case) -> str | None:
    found = broken_steps(case)
    rest = len(case.curve) - int(found[0]) if len(found) else 0
    return f"all {rest} steps from there on are broken" if rest == len(found) >= 3 else None


def comes_and_goes(case: Case) -> str | None:
    """Finite steps between steps that are not, twice at least."""
    found = broken_steps(case)
    returns = int((np.diff(found) > 1).sum()) + int(len(found) > 0 and found[-1] < len(case.curve) - 1)
    if returns < 2:
        return None
    return f"{len(found)} of {len(case.curve)} steps are broken, with sound ones between"


def first_gradient_broken(case: Case) -> str | None:
    """A sound loss in the first step beside a gradient norm that is not finite, and nothing sound after it."""
    curve = case.curve
    if len(curve) < 2 or not np.isinf(curve.grad_norm[0]) or len(broken_steps(case)) < len(curve):
        return None
    sound = curve.has_loss and np.isfinite(curve.loss[0]) and curve.loss[0] != 0
    spoiled = bool((curve.bad_loss | zeros_for_nan(curve))[1:].any())
    return (
        f"the first loss is {curve.loss[0]:.3g}, and its gradient is not finite"
        if sound and spoiled
        else None
    )


def worse_after_a_restart(case: Case) -> str | None:
    """Five losses after a restart are all above the usual before it, by 15 % and three times its noise at least."""
    loss = case.curve.loss
    for index in case.curve.restarts:
        before, after = loss[max(0, index - 8) : index], loss[index : index + 5]
        if len(before) < 3 or len(after) < 5 or not np.isfinite(loss[index - len(before) : index + 5]).all():
            continue
        usual, noise = float(np.median(before)), float(np.median(np.abs(np.diff(before))))
        if after.min() > usual + max(0.15 * abs(usual), 3 * noise):
            level = float(np.median(after))
            return f"from the restart at step {case.curve.step[index]} on the loss is near {level:.3g}, not {usual:.3g}"
    return None


def zero_loss(case: Case) -> str | None:
    zeros = int(zeros_for_nan(case.curve).sum())
    return f"{zeros} losses are exactly 0" if zeros >= 2 else None


def zero_from_the_first(case: Case) -> str | None:
    zeros = zeros_for_nan(case.curve)
    return "every loss is exactly 0, from the first one on" if len(zeros) and zeros.all() else None


def frozen_gradient(case: Case) -> str | None:
    """The gradient norm stands at √2, or at 1 where the loss is 0: what clipping makes of NaN."""
    norm = case.curve.grad_norm
    tail = norm[-3:]
    if len(tail) < 3 or not is_frozen(tail).all() or np.ptp(tail) > 1e-6:
        return None
    if abs(tail[0] - 1) < 1e-6 and not zeros_for_nan(case.curve)[-3:].all():
        return None  # a clipped norm may well be logged as 1
    return f"the gradient norm stands at exactly {tail[0]:.4g}, which clipping makes of NaN"


def overflow_without_end(case: Case) -> str | None:
    found = without_end(case)
    if found is None or (case.loss_scaling is None and case.setup is not None and case.setup.dtype == "bf16"):
        return None
    start, length = found
    return f"{length} steps in a row from step {case.curve.step[start]} overflow: more than a loss scale can be halved"


def climbs(case: Case) -> str | None:
    """Three losses in a row half as high again as the best before them, by 0.5 at least, and far out of their noise.

    A loss that jumps and falls again from there has met other data, and does not climb.
    """
    found = rise(case) or rising_at_the_end(case)
    if found is None or broken_by_the_first_update(case) or worse_after_a_restart(case):
        return None
    loss, index = found
    if loss[index:].max() <= 1.05 * loss[index] and np.median(loss[-3:]) < loss[index]:
        return None
    return f"the loss climbs from {usual(loss[:index]):.3g} to {float(loss.max()):.3g} over several steps"


def broken_by_the_first_update(case: Case) -> str | None:
    """The second loss is twice the first, by 2 at least, and those after it are like the second."""
    loss = case.curve.loss[healthy_part(case)]
    if len(loss) < 4 or not np.isfinite(loss).all() or case.curve.step[1] - case.curve.step[0] != 1:
        return None
    after = loss[1:9]
    if (
        loss[1] < 2 * loss[0]
        or after.min() < loss[0] + 2
        or after.max() > 1.3 * loss[1]
        or is_policy(case.curve)
    ):
        return None
    return f"the first step has {loss[0]:.3g}, and from the second on the loss is near {np.median(after):.3g}"


def _stuck_value(curve: Curve) -> float | None:
    tail = curve.loss[-STUCK:]
    constant = len(tail) == STUCK and np.isfinite(tail).all() and (tail == tail[0]).all()
    if not constant or alive(curve.grad_norm[-STUCK:]):
        return None  # a printed loss has four digits; gradients that move say that it does, too
    small = abs(tail[0]) < 0.01 and not zeros_for_nan(curve)[-1]
    return None if small else float(tail[0])


def stuck(case: Case) -> str | None:
    value = _stuck_value(case.curve)
    return None if value is None else f"the last {STUCK} losses or more are all {value:.6g}"


def no_gradient(case: Case) -> str | None:
    """A gradient norm of exactly 0 at the end, before the loss has become nothing."""
    norm, loss = case.curve.grad_norm[-STUCK:], case.curve.loss[-STUCK:]
    if len(norm) < 3 or not (norm == 0).all() or is_policy(case.curve):
        return None
    converged = np.isfinite(loss).all() and np.abs(loss).max() < 0.01 and not zeros_for_nan(case.curve)[-1]
    return None if converged else "the gradient norm is exactly 0 there"


def no_gradient_of_a_policy(case: Case) -> str | None:
    """Gradient norms of exactly 0 in every step of a reinforcement learning."""
    norm = case.curve.grad_norm
    if len(norm) < 3 or not (norm == 0).all() or not is_policy(case.curve):
        return None
    return f"the gradient norm is exactly 0 in all {len(norm)} steps"


def uniform_guess(case: Case) -> str | None:
    value = _stuck_value(case.curve)
    if value is None or value <= 0:
        return None
    if case.vocabulary:
        known = {case.vocabulary: "this model"} if abs(value - math.log(case.vocabulary)) < 0.01 else {}
    else:
        known = {size: of for size, of in VOCABULARIES.items() if abs(value - math.log(size)) < 0.0006}
    of = ", ".join(f"{size} tokens ({model})" for size, model in known.items())
    return f"{value:.4f} is the logarithm of a vocabulary of {of}: every token alike" if of else None


def absurd_loss(case: Case) -> str | None:
    """A loss that begins where no mean over tokens does, and does not fall from there."""
    loss = case.curve.loss
    finite = loss[np.isfinite(loss)]
    limit = max(10 * math.log(case.vocabulary), 30.0) if case.vocabulary else ABSURD
    if not len(finite) or finite[0] < limit or len(loss) < 2 or not case.curve.has_loss:
        return None
    falls = np.isfinite(loss).all() and np.median(finite[-max(2, len(finite) // 3) :]) < 0.97 * finite[0]
    return None if falls else f"the loss begins absurdly high, at {finite[0]:.6g}"


def learning_rate_0(case: Case) -> str | None:
    rate = case.curve.learning_rate
    known = rate[np.isfinite(rate)]
    return (
        f"the learning rate is exactly 0 in all {len(known)} steps"
        if len(known) >= 3 and not known.any()
        else None
    )


def silent(case: Case) -> str | None:
    """Nothing heard for 20 times the longest step, and for 10 s at least."""
    if case.silence is None:
        return None
    gaps = np.diff(case.curve.time)
    gaps = np.delete(gaps, [index - 1 for index in case.curve.restarts])
    known = gaps[np.isfinite(gaps)]
    limit = max(SILENCE * float(known.max()), SILENCE_SECONDS) if len(known) else SILENCE_BEFORE_FIRST
    return f"nothing was heard for {case.silence:.0f} s" if case.silence > limit else None


def no_step(case: Case) -> str | None:
    """No step at all, of a run that is not known to be young and has written something."""
    curve = case.curve
    if len(curve) or len(curve.eval_loss) or case.silence is not None or curve.of_empty_file:
        return None
    return "no step was logged"


Sign = Callable[[Case], str | None]
HARD: dict[str, Sign] = {
    "learning rate 0": learning_rate_0,
    "no step": no_step,
    "silent": silent,
    "broken at once": broken_at_once,
    "broken later": broken_later,
    "stays broken": stays_broken,
    "comes and goes": comes_and_goes,
    "broken alone": broken_alone,
    "first gradient broken": first_gradient_broken,
    "worse after a restart": worse_after_a_restart,
    "zero loss": zero_loss,
    "zero from the first": zero_from_the_first,
    "frozen gradient": frozen_gradient,
    "overflow without end": overflow_without_end,
    "absurd loss": absurd_loss,
    "climbs": climbs,
    "broken by the first update": broken_by_the_first_update,
    "no gradient of a policy": no_gradient_of_a_policy,
    "stuck": stuck,
    "no gradient": no_gradient,
    "uniform guess": uniform_guess,
    "runs differ": runs_differ,
}
