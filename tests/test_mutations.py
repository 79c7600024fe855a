"""Every property fails under a one-line break of the code: what a property cannot catch it does not guard.

`MUTATIONS` gives a module, one of its source lines, a broken line to put in its place, and the properties
that must notice. A case fails if the source line is gone, if a property named passes nevertheless, or fails
by anything but an assertion; `test_every_property_guards_some_line` fails for a property that no case names.

The break is made in place: the patched source is compiled, and the code objects of the functions that differ
are swapped for the time of the case, so that everything that imported them sees the break.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import pytest
from hypothesis import HealthCheck, Phase, is_hypothesis_test, settings

from tests import test_properties

RECURSION, KERNELS = "asd.stopping.recursion", "asd.stopping.kernels"
SOLVED, ORACLE = "asd.policies.solved", "asd.policies.oracle"

VALUE = "return lams[:, None] * self.quality - self.cost"
EDGE = "worths.append(_Worth(then.quality @ edge.kernel.T, edge.cost + then.cost @ edge.kernel.T))"
STOPPING = "quality = np.broadcast_to(node.p, (n_lams, node.n_bins))"
FIRST_BEST = "first: IntArray = (values >= best - slack).argmax(axis=0)"

MUTATIONS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "lam counts by its root": (
        RECURSION,
        VALUE,
        "return lams[:, None] ** 0.5 * self.quality - self.cost",
        (
            "test_value_is_convex_in_lam",
            "test_slope_of_the_value_in_lam_is_the_expected_quality",
            "test_value_is_piecewise_linear_in_lam",
        ),
    ),
    "every lam is taken for another": (
        RECURSION,
        VALUE,
        "return lams[::-1, None] * self.quality - self.cost",
        (
            "test_value_never_falls_with_lam",
            "test_expected_quality_never_falls_with_lam",
            "test_expected_cost_never_falls_with_lam",
            "test_stop_sets_shrink_with_lam",
            "test_thresholds_never_fall_with_lam",
            "test_a_sweep_equals_its_lams_one_by_one",
        ),
    ),
    "cost is a gain": (
        RECURSION,
        VALUE,
        "return lams[:, None] * self.quality + self.cost",
        (
            "test_thresholds_never_rise_with_the_cost_of_going_on",
            "test_stop_sets_grow_with_the_cost_of_going_on",
            "test_value_never_rises_with_cost",
        ),
    ),
    "cost counts squared": (
        RECURSION,
        EDGE,
        EDGE.replace("edge.cost +", "edge.cost**2 +"),
        ("test_at_lam_zero_the_cheapest_way_out_is_taken", "test_scaling_all_costs_equals_dividing_lam"),
    ),
    "later costs are forgotten": (
        RECURSION,
        EDGE,
        EDGE.replace("then.cost @", "0 * then.cost @"),
        (
            "test_value_equals_a_linear_programme",
            "test_value_with_verification_equals_a_linear_programme",
            "test_evaluation_equals_carrying_mass_forward",
        ),
    ),
    "wrong answers count as right": (
        RECURSION,
        STOPPING,
        STOPPING.replace("node.p,", "1 - node.p,"),
        (
            "test_value_equals_brute_force_over_all_policies",
            "test_value_with_verification_equals_brute_force",
            "test_better_answers_never_lower_the_value",
        ),
    ),
    "bins are sorted on the way": (
        RECURSION,
        STOPPING,
        STOPPING.replace("node.p,", "np.sort(node.p),"),
        ("test_relabelling_bins_changes_nothing",),
    ),
    "the worst open option is taken": (
        RECURSION,
        FIRST_BEST,
        "first: IntArray = np.where(values > -math.inf, values, math.inf).argmin(axis=0)",
        (
            "test_value_is_at_least_that_of_any_policy_in_every_state",
            "test_value_is_at_least_that_of_every_fixed_stage",
            "test_value_is_at_least_that_of_every_random_mix",
            "test_value_is_at_least_that_of_every_static_walk",
            "test_adding_an_edge_never_lowers_the_value",
            "test_adding_a_node_never_lowers_the_value",
            "test_adding_verification_never_lowers_the_value",
            "test_finer_evidence_is_worth_at_least_its_merging_on_the_fine_process",
            "test_evidence_is_worth_at_least_its_garbling",
        ),
    ),
    "the last of equals is taken": (
        RECURSION,
        FIRST_BEST,
        "first: IntArray = len(values) - 1 - (values >= best - slack)[::-1].argmax(axis=0)",
        (
            "test_stopping_beats_going_on_when_they_are_worth_the_same",
            "test_the_edge_listed_first_is_taken_among_equals",
        ),
    ),
    "the optimum looks at the first edge only": (
        RECURSION,
        "return _induct(graph, lams, lambda _, values: _first_best(values, lams))",
        "return _induct(graph, lams, lambda _, values: _first_best(values[:2], lams))",
        ("test_value_is_at_least_that_of_one_step_look_ahead",),
    ),
    "the look-ahead sees the first edge only": (
        RECURSION,
        "actions[node.name] = _first_best(values, lams) - 1",
        "actions[node.name] = _first_best(values[:2], lams) - 1",
        (
            "test_one_step_look_ahead_is_optimal_when_one_step_is_all_there_is",
            "test_the_myopic_policy_takes_the_actions_of_one_step_look_ahead",
        ),
    ),
    "evaluation takes the last edge": (
        RECURSION,
        "return _checked_actions(node, actions, values.shape) + 1",
        "return np.maximum(_checked_actions(node, actions, values.shape) + 1, len(values) - 1)",
        ("test_evaluating_the_optimum_gives_its_value_back",),
    ),
    "a forbidden stop is shown": (
        RECURSION,
        "first = 0 if values[0] > -math.inf else 1",
        "first = 0",
        ("test_the_action_taken_has_the_largest_value_of_all_open_ones",),
    ),
    "a threshold is the highest p that stops": (
        RECURSION,
        "lowest = float(p[stops].min(initial=math.inf))",
        "lowest = float(p[stops].max(initial=0.0))",
        ("test_a_threshold_is_reported_exactly_where_it_describes_the_stop_set",),
    ),
    "every lam is rounded down": (
        RECURSION,
        "borders = np.sqrt(self.lams[:-1] * self.lams[1:])",
        "borders = self.lams[1:]",
        ("test_the_nearest_solved_lam_is_nearest_on_a_log_scale",),
    ),
    "length is ignored": (
        SOLVED,
        "lam_index = self.solution.nearest(self.lam / _checked_scale(state))",
        "lam_index = self.solution.nearest(self.lam)",
        ("test_a_long_query_is_decided_as_if_all_its_costs_were_scaled",),
    ),
    "foresight is used to lose": (
        ORACLE,
        "return max(worth, key=worth.__getitem__)",
        "return min(worth, key=worth.__getitem__)",
        ("test_the_oracle_is_worth_at_least_every_fixed_stage_per_query",),
    ),
    "an edge at the least value is kept": (
        KERNELS,
        "return cls(tuple(edges[edges > p.min()].tolist()))",
        "return cls(tuple(edges.tolist()))",
        ("test_no_bin_is_empty_where_bins_were_fitted",),
    ),
    "a single number lands one bin too high": (
        KERNELS,
        "return bisect_right(self.edges, p)",
        "return bisect_right(self.edges, p) + 1",
        ("test_bins_follow_the_order_of_the_values_one_by_one_or_at_once",),
    ),
    "the imagined row is not counted": (
        KERNELS,
        "return np.asarray((near + marginal) / (near.sum(axis=1, keepdims=True) + 1))",
        "return np.asarray((near + marginal) / np.maximum(near.sum(axis=1, keepdims=True), 0.5))",
        ("test_an_estimated_kernel_is_a_distribution_that_no_seen_target_is_missing_from",),
    ),
    "means are pushed away from each other": (
        KERNELS,
        "shrunk = overall + weight * (own - overall)",
        "shrunk = own + weight * (own - overall)",
        ("test_a_mean_by_bin_lies_between_its_own_mean_and_the_overall_one",),
    ),
}

settings.register_profile(
    "mutation",
    max_examples=300,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def quick_properties() -> ModuleType:
    """A second copy of the properties, decorated under the profile above: no shrinking, no randomness."""
    before = settings.get_current_profile_name()
    settings.load_profile("mutation")
    try:
        spec = spec_from_file_location("quick_properties", str(test_properties.__file__))
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up there
        spec.loader.exec_module(module)
    finally:
        settings.load_profile(before)
    return module


QUICK = quick_properties()


@contextmanager
def broken(module_name: str, line: str, replacement: str) -> Iterator[None]:
    """One source line of a module replaced, in every function that holds it, until the block ends."""
    path = str(importlib.import_module(module_name).__file__)
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    found = [i for i, text in enumerate(lines) if text.strip() == line]
    assert len(found) == 1, f"{module_name} must hold the line {line!r} once, found it {len(found)} times"
    lines[found[0]] = lines[found[0]].replace(line, replacement)
    codes = {_place(code): code for code in _nested(compile("\n".join(lines), path, "exec"))}
    functions = [f for f in gc.get_objects() if type(f) is FunctionType]
    originals = [(f, f.__code__) for f in functions if f.__code__.co_filename == path]
    try:
        for function, original in originals:
            function.__code__ = codes[_place(original)]
        yield
    finally:
        for function, original in originals:
            function.__code__ = original


def _place(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def _nested(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_line_is_noticed(mutation):
    """Every property named fails, by its own assertion, while the line is broken."""
    module, line, replacement, properties = MUTATIONS[mutation]
    for name in properties:
        with broken(module, line, replacement), pytest.raises(AssertionError):
            getattr(QUICK, name)()


def test_every_property_guards_some_line():
    """No property is without a break that it is shown to notice."""
    properties = {name for name, value in vars(test_properties).items() if is_hypothesis_test(value)}
    assert len(properties) >= 20
    assert properties == {name for *_, named in MUTATIONS.values() for name in named}


@pytest.mark.slow
def test_a_break_ends_with_its_block():
    """Behind the block the code is whole again, and a line that does not exist is an error."""
    line = "return lams[:, None] * self.quality - self.cost"
    with broken(RECURSION, line, "return lams[:, None] * self.quality"):
        pass
    QUICK.test_value_equals_brute_force_over_all_policies()
    with pytest.raises(AssertionError, match="0 times"), broken(RECURSION, "no such line", "pass"):
        pass
