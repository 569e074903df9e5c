"""Each parameter of sampling has its effect, reckoned from the logits that the model itself gives."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp import makeBackend
from rkllm_twisted.errors import InvalidParams
from rkllm_twisted.values import RKLLMInferParam, RKLLMSamplingParam
from tests.backends.llamacpp.asking import logitRows, logitsOf, said, someTokens, tokenInput
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run
from tests.tiny_model import tokenOf

RANDOM, CYCLE = {"style": "random"}, {"style": "cycle"}
PROMPT = tokenInput(someTokens(20))
PLAIN = RKLLMSamplingParam(top_k=0, top_p=1.0, temperature=1.0, repeat_penalty=1.0)
"""Nothing but the probabilities of the model."""
DRAWS = 200
PENALTY_WINDOW = 64
"""How many of the last tokens the penalties look at, by llama.cpp's own default."""


@pytest.fixture
def seeded(load):
    """A function that loads a model whose draws repeat."""
    return lambda seed=1, **fields: load(RANDOM, runtime=makeBackend({"threads": "1", "seed": str(seed)}), **fields)


@pytest.fixture
def drawn(load):
    """A function that draws the first token of an answer many times; gives how often each came."""
    model = load(RANDOM)

    def drawn(**fields):
        asked = RKLLMInferParam(sampling_params=structs.replace(PLAIN, **fields), max_new_tokens=1)
        tokens = Counter()
        for seed in range(DRAWS):
            model._seed = seed
            tokens.update(said(Run(model, PROMPT, asked)))
        return tokens

    return drawn


@pytest.fixture
def logits(load):
    """The logits of the first token of an answer."""
    return logitRows(Run(load(RANDOM), PROMPT, logitsOf(max_new_tokens=1)).results[0])[-1].astype(np.float64)


def probabilities(logits, temperature=1.0):
    likely = np.exp((logits - logits.max()) / temperature)
    return likely / likely.sum()


def assertDrawnBy(tokens, expected):
    """Whether the counts are those of a distribution: none that it has not, the likely ones within five deviations."""
    assert all(expected[token] > 0 for token in tokens)
    for token in np.flatnonzero(expected > 0.02):
        deviation = (DRAWS * expected[token] * (1 - expected[token])) ** 0.5
        assert abs(tokens[int(token)] - DRAWS * expected[token]) < 5 * deviation + 1, token


class TestDistribution:
    def test_of_the_model_itself(self, drawn, logits):
        tokens = drawn()
        assertDrawnBy(tokens, probabilities(logits))
        assert len(tokens) > 30

    @pytest.mark.parametrize("temperature", [0.5, 3.0])
    def test_of_temperature(self, drawn, logits, temperature):
        assertDrawnBy(drawn(temperature=temperature), probabilities(logits, temperature))

    @pytest.mark.parametrize("count", [2, 5, 1000])
    def test_of_top_k(self, drawn, logits, count):
        least = np.sort(logits)[-count:][0]
        tokens = drawn(top_k=count, temperature=9.0)
        assertDrawnBy(tokens, probabilities(np.where(logits >= least, logits, -np.inf), 9.0))
        assert len(tokens) == count if count < 10 else len(tokens) > 100

    @pytest.mark.parametrize("share", [0.3, 0.7])
    def test_of_top_p(self, drawn, logits, share):
        """What belongs to it is told before the temperature changes the probabilities."""
        likely = probabilities(logits)
        order = np.argsort(-likely)
        nucleus = order[: int(np.searchsorted(np.cumsum(likely[order]), share)) + 1]
        expected = np.full(len(logits), -np.inf)
        expected[nucleus] = logits[nucleus]
        tokens = drawn(top_p=share, temperature=5.0)
        assertDrawnBy(tokens, probabilities(expected, 5.0))
        assert set(tokens) == {int(token) for token in nucleus}

    def test_of_top_p_is_of_what_top_k_left(self, drawn, logits):
        best = [int(token) for token in np.argsort(-logits)[:4]]
        likely = probabilities(logits[best])
        share = float(likely[:2].sum()) - 0.001
        assert set(drawn(top_k=4, top_p=share, temperature=5.0)) == set(best[:2])

    def test_of_what_takes_the_likeliest(self, drawn, logits):
        best = int(logits.argmax())
        for fields in (
            {"top_k": 1, "temperature": 9.0},
            {"top_k": 1, "mirostat": 2},
            {"temperature": 0.0},
            {"temperature": 1e-40},
            {"top_p": 1e-6},
        ):
            assert set(drawn(**fields)) == {best}, fields


def penalised(rows, tokens, repeat=1.0, frequency=0.0, presence=0.0):
    """Which tokens are the likeliest, given the logits of each and which were said before it."""
    for row, token, place in zip(rows, tokens, range(len(tokens)), strict=True):
        row = row.astype(np.float64).copy()
        for earlier, count in Counter(tokens[max(0, place - PENALTY_WINDOW) : place]).items():
            row[earlier] = row[earlier] / repeat if row[earlier] > 0 else row[earlier] * repeat
            row[earlier] -= count * frequency + presence
        yield int(row.argmax()), token


class TestPenalties:
    """Each token is the likeliest one after the tokens before it have been penalised, as reckoned here."""

    @pytest.mark.parametrize(
        "fields",
        [
            {"repeat_penalty": 1.7},
            {"repeat_penalty": 0.5},
            {"frequency_penalty": 1.5},
            {"frequency_penalty": -2.0},
            {"presence_penalty": 3.0},
            {"presence_penalty": -4.0},
            {"repeat_penalty": 1.2, "frequency_penalty": 0.4, "presence_penalty": 0.5},
        ],
    )
    def test_are_reckoned_from_what_was_said(self, load, fields):
        model = load(RANDOM, ignore_eos_token=True)
        asked = logitsOf(max_new_tokens=PENALTY_WINDOW + 60)
        sampling = structs.replace(asked.sampling_params, **fields)
        run = Run(model, PROMPT, structs.replace(asked, sampling_params=sampling))
        tokens = said(run)
        rows = [logitRows(result)[-1] for result in run.results if result.token_id >= 0]
        names = {name: fields.get(f"{name}_penalty", float(name == "repeat")) for name in PENALTIES}
        assert all(expected == token for expected, token in penalised(rows, tokens, **names))
        plain = said(Run(model, PROMPT, greedy(max_new_tokens=PENALTY_WINDOW + 60)))
        assert tokens != plain

    def test_are_of_the_answer_not_of_the_prompt(self, load):
        model = load(CYCLE)
        sampling = structs.replace(greedy().sampling_params, presence_penalty=1000.0)
        asked = RKLLMInferParam(sampling_params=sampling, max_new_tokens=3)
        assert Run(model, tokenInput([*map(tokenOf, b"bcda")]), asked).text == "bcd"

    def test_begin_anew_with_each_run(self, load):
        model = load({**CYCLE, "ring": "ab"})
        sampling = structs.replace(greedy().sampling_params, presence_penalty=1000.0)
        asked = RKLLMInferParam(sampling_params=sampling, max_new_tokens=6, keep_history=1)
        prompt = tokenInput([tokenOf(ord("a"))])
        assert Run(model, prompt, asked).text[0] == Run(model, prompt, asked).text[0] == "b"


PENALTIES = ("repeat", "frequency", "presence")


class TestMirostat:
    def surprises(self, model, **fields):
        """How surprising each token of an answer is, in bits, and how surprising the likeliest would have been."""
        sampling = structs.replace(PLAIN, **fields)
        run = Run(model, PROMPT, structs.replace(logitsOf(max_new_tokens=250), sampling_params=sampling))
        pairs = []
        for result in run.results:
            if result.token_id >= 0:
                likely = probabilities(logitRows(result)[-1].astype(np.float64))
                pairs.append((-np.log2(likely[result.token_id]), -np.log2(likely.max())))
        return pairs

    @pytest.mark.parametrize("version", [1, 2])
    def test_is_the_more_surprising_the_more_tau_asks_for(self, seeded, version):
        model = seeded(ignore_eos_token=True)
        means = [np.mean(self.surprises(model, mirostat=version, mirostat_tau=tau), axis=0)[0] for tau in (0.5, 2, 5)]
        assert means[0] + 0.3 < means[1] < means[2] - 0.3

    def test_learns_as_fast_as_eta_says(self, seeded):
        """Not at all with 0: then nothing is more surprising than twice tau, unless all tokens are."""
        model = seeded(ignore_eos_token=True)
        still = self.surprises(model, mirostat=2, mirostat_tau=1.5, mirostat_eta=0.0)
        assert max(surprise for surprise, least in still) > 2.5
        assert all(surprise < 2 * 1.5 + 0.001 or surprise == least for surprise, least in still)
        fast = self.surprises(model, mirostat=2, mirostat_tau=1.5, mirostat_eta=1.0)
        assert any(surprise > 2 * 1.5 + 0.5 and surprise > least for surprise, least in fast)

    @pytest.mark.parametrize("version", [1, 2])
    def test_takes_no_part_of_top_k_and_top_p(self, seeded, version):
        model = seeded()
        asked = [
            structs.replace(PLAIN, mirostat=version, top_k=top_k, top_p=top_p) for top_k, top_p in ((0, 1.0), (7, 0.2))
        ]
        first, second = (
            Run(model, PROMPT, RKLLMInferParam(sampling_params=each, max_new_tokens=30)).tokens for each in asked
        )
        assert first == second

    def test_has_two_versions(self, seeded):
        model = seeded()
        tokens = [
            tuple(
                Run(
                    model,
                    PROMPT,
                    RKLLMInferParam(sampling_params=structs.replace(PLAIN, mirostat=version), max_new_tokens=30),
                ).tokens
            )
            for version in (0, 1, 2)
        ]
        assert len(set(tokens)) == 3


OTHERS = [
    {"top_k": 3},
    {"top_p": 0.2},
    {"temperature": 0.3},
    {"repeat_penalty": 3.0},
    {"frequency_penalty": 2.0},
    {"presence_penalty": 9.0},
    {"mirostat": 1},
    {"mirostat": 2},
    {"mirostat": 1, "mirostat_tau": 1.0},
    {"mirostat": 2, "mirostat_tau": 1.0},
    {"mirostat": 1, "mirostat_eta": 2.0},
    {"mirostat": 2, "mirostat_eta": 2.0},
]


class TestInitAndRun:
    def test_mean_the_same(self, seeded):
        """Each field of init does what it does in a run, and another value of it something else."""
        base = {name: getattr(PLAIN, name) for name in PLAIN.__struct_fields__}
        answers = []
        model = seeded(max_new_tokens=40, ignore_eos_token=True, **base)
        for fields in ({}, *OTHERS):
            ofInit = seeded(max_new_tokens=40, ignore_eos_token=True, **{**base, **fields})
            inRun = RKLLMInferParam(sampling_params=structs.replace(PLAIN, **fields))
            tokens = Run(model, PROMPT, inRun).tokens
            assert Run(ofInit, PROMPT).tokens == tokens, fields
            answers.append(tuple(tokens))
            ofInit.destroy()
        assert len(set(answers)) == len(OTHERS) + 1
        assert {name for fields in OTHERS for name in fields} == set(base)

    def test_of_a_run_take_the_place_of_all_of_init(self, seeded):
        model = seeded(top_k=1, presence_penalty=9.0, max_new_tokens=30)
        fresh = seeded(max_new_tokens=30)
        default = RKLLMInferParam(sampling_params=RKLLMSamplingParam())
        assert Run(model, PROMPT, default).tokens == Run(fresh, PROMPT, default).tokens

    def test_of_a_run_are_forgotten_after_it(self, load):
        model = load(RANDOM, top_k=1, repeat_penalty=1.0, max_new_tokens=10)
        expected = Run(model, PROMPT, greedy(max_new_tokens=10)).tokens
        Run(model, PROMPT, RKLLMInferParam(sampling_params=structs.replace(PLAIN, temperature=9.0), max_new_tokens=3))
        assert Run(model, PROMPT).tokens == expected

    def test_max_new_tokens_of_a_run_is_for_it_alone(self, load):
        model = load(CYCLE, max_new_tokens=7)
        lengths = [len(Run(model, "x", greedy(max_new_tokens=most)).tokens) for most in (3, 0, -1, 9, 0)]
        assert lengths == [3, 7, 7, 9, 7]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("top_k", -1),
            ("top_p", 0.0),
            ("temperature", float("nan")),
            ("repeat_penalty", 0.0),
            ("mirostat", 3),
            ("mirostat_tau", 0.0),
            ("mirostat_eta", -0.1),
        ],
    )
    def test_bad_values_are_named(self, load, field, value):
        fields = {"mirostat": 1, field: value}
        with pytest.raises(InvalidParams) as caught:
            load(RANDOM, **fields)
        assert caught.value.detail.startswith(f"$.param.{field}: expected ")
        with pytest.raises(InvalidParams) as caught:
            Run(load(RANDOM), "x", RKLLMInferParam(sampling_params=structs.replace(PLAIN, **fields)))
        assert caught.value.detail.startswith(f"$.rkllm_infer_params.sampling_params.{field}: expected ")


class TestSeed:
    @pytest.mark.parametrize("fields", [{}, {"mirostat": 1}, {"mirostat": 2}])
    def test_makes_every_run_repeat(self, seeded, fields):
        asked = RKLLMInferParam(sampling_params=structs.replace(PLAIN, **fields), max_new_tokens=30)
        answers = {}
        for seed in (0, 1, 2**32 - 2):
            models = seeded(seed), seeded(seed)
            runs = {tuple(Run(model, PROMPT, asked).tokens) for model in (*models, *models)}
            assert len(runs) == 1
            answers[seed] = runs.pop()
        assert len(set(answers.values())) == 3

    @pytest.mark.parametrize("fields", [{}, {"mirostat": 1}, {"mirostat": 2}])
    def test_without_one_runs_differ(self, load, fields):
        asked = RKLLMInferParam(sampling_params=structs.replace(PLAIN, **fields), max_new_tokens=30)
        model = load(RANDOM)
        assert len({tuple(Run(model, PROMPT, asked).tokens) for _ in range(4)}) == 4

    def test_does_not_matter_to_the_likeliest(self, seeded):
        assert Run(seeded(1), PROMPT, greedy(max_new_tokens=30)).tokens == (
            Run(seeded(2), PROMPT, greedy(max_new_tokens=30)).tokens
        )
