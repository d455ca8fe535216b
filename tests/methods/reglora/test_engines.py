import torch

from sefe_plugin.methods.gradients import AddInBackward, add_to_grad


def leaf():
    return torch.nn.Parameter(torch.tensor([1.0, 2.0]))


def test_added_once_to_what_the_next_backward_pass_forms():
    parameter, deliver = leaf(), AddInBackward()
    deliver(parameter, torch.tensor([10.0, 20.0]))
    assert parameter.grad is None
    (parameter**2).sum().backward()
    assert parameter.grad.tolist() == [12.0, 24.0]
    (parameter**2).sum().backward()
    assert parameter.grad.tolist() == [14.0, 28.0]
    assert deliver.drop() == 0


def test_what_no_backward_pass_takes_along_is_dropped():
    used, unused, deliver = leaf(), leaf(), AddInBackward()
    for parameter in (used, unused):
        deliver(parameter, torch.ones(2))
    used.sum().backward()
    assert deliver.drop() == 1
    unused.sum().backward()
    assert unused.grad.tolist() == [1.0, 1.0]


def test_both_ways_keep_the_dtype_of_the_parameter():
    for deliver in (AddInBackward(), add_to_grad):
        parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        deliver(parameter, torch.tensor([0.5, 1.0]))
        parameter.sum().backward()
        assert parameter.grad.dtype == torch.bfloat16
        assert parameter.grad.tolist() == [1.5, 2.0]


def test_add_to_grad_adds():
    parameter = leaf()
    for _ in range(2):
        add_to_grad(parameter, torch.ones(2))
    assert parameter.grad.tolist() == [2.0, 2.0]
