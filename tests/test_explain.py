"""What `mt.explain` prints is the backward pass as it happens."""

import io

import microtensor as mt


def explained(output, **options):
    text = io.StringIO()
    mt.explain(output, file=text, **options)
    return text.getvalue()


def test_a_number_times_itself_receives_two_contributions():
    x = mt.tensor(3.0, requires_grad=True)
    text = explained(x * x)
    assert text.count("contributes 3") == 2
    assert ".grad = 6" in text


def test_the_rule_of_an_operation_on_any_number_of_arrays_is_its_own_text():
    x, y = (mt.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    text = explained(mt.stack([x, y]).sum())
    assert text.count("by `unstack(g, axis=axis)`") == 2
    assert "saved" not in text


def test_a_rule_that_is_no_lambda_is_named():
    x = mt.tensor([[1.0, 2.0]], requires_grad=True)
    assert "rule spread" in explained(x.sum())


def test_every_step_of_a_recurrence_contributes_to_its_weight():
    w = mt.tensor(0.5, requires_grad=True)
    h = mt.tensor(1.0)
    for _ in range(3):
        h = mt.tanh(w * h)
    assert explained(h).count("running sum") == 2


def test_a_layer_is_one_node_or_its_steps():
    layer, x = mt.nn.RNN(1, 2), mt.ones((3, 1, 1))
    fused = explained(layer(x)[0].sum())
    with mt.recurrence.driver("steps"):
        steps = explained(layer(x)[0].sum())
    assert fused.count(". sequence ") == 1
    assert "running sum" not in fused
    assert steps.count(". tanh ") == 3
    assert ". sequence " not in steps
