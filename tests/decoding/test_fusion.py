"""Adaptive alpha minimises the loss of Dynamic Logits Fusion, and an ensemble uses it at every token."""

import pytest
import torch
from torch import Tensor

from earnest.decoding.account import account
from earnest.decoding.ensemble import Ensemble, Pair
from earnest.decoding.fusion import adaptive_alphas
from earnest.decoding.generation import Prompt, continue_prompts
from earnest.specs import UserError

STEP = 0.1


def kl(one: Tensor, other: Tensor) -> Tensor:
    return torch.nn.functional.kl_div(other, one, reduction="none", log_target=True).sum(-1)


def loss(base: Tensor, experts: list[Tensor], antis: list[Tensor], alphas: Tensor) -> Tensor:
    """The loss of arXiv 2406.15480, section 3.3, as it is written, in float64; alphas [n, pairs]."""
    p = base.double().log_softmax(-1)
    differences = torch.stack(experts, -1).double() - torch.stack(antis, -1).double()
    fused = (base.double() + (differences * alphas[:, None].double()).sum(-1)).log_softmax(-1)
    terms = torch.zeros(len(base), dtype=torch.float64)
    for expert, anti in zip(experts, antis, strict=True):
        tuned, untuned = expert.double().log_softmax(-1), anti.double().log_softmax(-1)
        terms += (kl(fused, p) - kl(tuned, untuned)) ** 2 + (kl(p, fused) - kl(untuned, tuned)) ** 2
    return terms


def searched(base: Tensor, experts: list[Tensor], antis: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Its pseudo-code as it is written: one pair at a time, 0 to 2 in steps of 0.1; alphas [n, pairs], their loss."""
    best, least = torch.zeros(len(base), len(experts)), torch.full((len(base),), torch.inf, dtype=torch.float64)
    for pair in range(len(experts)):
        for step in range(21):
            tried = torch.zeros_like(best)
            tried[:, pair] = step * STEP
            found = loss(base, experts, antis, tried)
            better = found < least
            best[better], least[better] = tried[better], found[better]
    return best, least


def models(pairs: int, scale: float, n: int = 60, vocabulary: int = 90) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(pairs)
    base, anti = (3 * torch.randn(n, vocabulary, generator=generator) for _ in range(2))
    experts = [anti + scale * torch.randn(n, vocabulary, generator=generator) for _ in range(pairs)]
    return base, experts, [anti] * pairs


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("pairs", [1, 3])
def test_alphas_are_those_of_the_papers_search_and_lose_no_more(pairs: int, scale: float) -> None:
    given = models(pairs, scale)
    found, (grid, least) = adaptive_alphas(*given), searched(*given)
    assert found.shape == (60, pairs)
    assert torch.equal(found > 0, grid > 0)
    assert float((found - grid).abs().max()) <= STEP / 2 + 1e-6
    assert float(loss(*given, found).sum()) < float(least.sum())


def test_alpha_moves_with_the_logits_where_the_search_jumps() -> None:
    """Blending one problem into another, alpha never jumps, though the best step changes many times."""
    base, (expert,), (anti,) = models(1, 1.0, n=2)
    blend = torch.linspace(0, 1, 2001)[:, None]
    given = [one[:1] + blend * (one[1:] - one[:1]) for one in (base, expert, anti)]
    found = adaptive_alphas(given[0], [given[1]], [given[2]])[:, 0]
    grid = searched(given[0], [given[1]], [given[2]])[0][:, 0]
    assert len(grid.unique()) > 2
    assert float(found.diff().abs().max()) < 0.01 < float(grid.diff().abs().max())


def test_the_fused_distribution_moves_farther_with_every_step_of_alpha() -> None:
    """Both divergences grow with alpha >= 0, which the search rests on."""
    base, (expert,), (anti,) = models(1, 2.0)
    p = base.log_softmax(-1)
    steps = [(base + alpha * (expert - anti)).log_softmax(-1) for alpha in torch.linspace(0, 2, 21)]
    there, back = (torch.stack(found) for found in ([kl(q, p) for q in steps], [kl(p, q) for q in steps]))
    assert bool((there.diff(dim=0) > 0).all())
    assert bool((back.diff(dim=0) > 0).all())


def test_a_small_model_that_is_the_base_leads_to_the_expert() -> None:
    """The antiexpert being the base, alpha 1 gives the expert, whose divergences are the goals."""
    base, (expert,), _ = models(1, 1.0)
    torch.testing.assert_close(adaptive_alphas(base, [expert], [base]), torch.ones(60, 1), atol=0.05, rtol=0)


def test_an_expert_that_learned_nothing_gets_no_weight() -> None:
    base, (expert,), _ = models(1, 1.0)
    assert not bool(adaptive_alphas(base, [expert], [expert]).any())


def test_one_constant_per_row_and_tokens_that_cannot_come_change_nothing() -> None:
    base, (expert,), (anti,) = models(1, 1.0)
    plain = adaptive_alphas(base, [expert], [anti])
    wide = [torch.nn.functional.pad(one, (0, 7), value=filled) for one, filled in ((base, -torch.inf), (expert, 5.0))]
    wide.append(torch.nn.functional.pad(anti, (0, 7), value=-torch.inf))
    moved = [one + 10 * torch.randn(60, 1) for one in wide]
    torch.testing.assert_close(adaptive_alphas(moved[0], [moved[1]], [moved[2]]), plain, atol=1e-4, rtol=0)


def test_positions_may_have_any_shape_and_do_not_matter_to_each_other() -> None:
    base, experts, antis = models(2, 1.0)
    flat = adaptive_alphas(base, experts, antis)
    shaped = adaptive_alphas(
        base.view(3, 20, -1), [e.view(3, 20, -1) for e in experts], [a.view(3, 20, -1) for a in antis]
    )
    assert torch.equal(shaped, flat.view(3, 20, 2))
    torch.testing.assert_close(
        adaptive_alphas(base[7:8], [e[7:8] for e in experts], [a[7:8] for a in antis]), flat[7:8]
    )


def test_no_position_has_no_alpha() -> None:
    assert adaptive_alphas(torch.zeros(0, 9), [torch.zeros(0, 9)] * 2, [torch.zeros(0, 9)] * 2).shape == (0, 2)


def test_huge_logits_overflow_nowhere() -> None:
    base, experts, antis = models(1, 1.0)
    assert bool(adaptive_alphas(1e4 * base, [1e4 * e for e in experts], [1e4 * a for a in antis]).isfinite().all())


PROMPT = Prompt((1, 20, 30, 40), (), 8)


@torch.inference_mode()
def test_an_adaptive_ensemble_writes_what_the_found_alphas_say_and_accounts_for_them(make_model) -> None:
    models = [make_model(seed=seed) for seed in range(3)]
    ensemble = Ensemble(*models, alpha="adaptive")
    (generation,) = continue_prompts(ensemble, [PROMPT], 1000)
    accounts, ids = account(ensemble, PROMPT, generation.ids), list(PROMPT.ids)
    for token, entry in zip(generation.ids, accounts, strict=True):
        base, expert, anti = (model.model(torch.tensor([ids])).logits[:, -1] for model in models)
        (alpha,) = adaptive_alphas(base, [expert], [anti])[0]
        assert token == int((base + alpha * (expert - anti)).argmax())
        assert entry.alpha == (pytest.approx(float(alpha), abs=1e-3),)
        ids.append(token)
    assert len({entry.alpha for entry in accounts}) > 1


@torch.inference_mode()
def test_adaptive_pairs_steer_what_comes_of_the_fixed_ones(make_model) -> None:
    base, one, two, three, anti = (make_model(seed=seed) for seed in range(5))
    pairs = [Pair(one, anti, "adaptive"), Pair(two, anti, 0.5), Pair(three, None, "adaptive"), Pair(one, two, 0.0)]
    ensemble = Ensemble.of(base, pairs)
    found = ensemble.open([[1, 20, 30]])
    b, e, f, g, a = (m.model(torch.tensor([[1, 20, 30]])).logits[:, -1] for m in (base, one, two, three, anti))
    fixed = b + 0.5 * (f - a)
    first, second = adaptive_alphas(fixed, [e, g], [a, b])[0].tolist()
    torch.testing.assert_close(found.logits, fixed + first * (e - a) + second * (g - b))
    assert ensemble.mixed(found.apart())[1][0].tolist() == pytest.approx([first, 0.5, second, 0.0], abs=1e-4)


def test_another_word_than_adaptive_is_refused(make_model) -> None:
    with pytest.raises(UserError, match="alpha adaptiv of Llama-1 is not finite; 1 is the usual one, or adaptive"):
        Ensemble(make_model(seed=0), make_model(seed=1), alpha="adaptiv")
