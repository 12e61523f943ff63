"""Ceilings of the card and the rates of PyTorch's attention kernels on it, for comparison with cuda_attention.cu in the same session."""
import statistics
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

dev = "cuda"


def median_ms(f, reps=20):
    """Everything is queued first, so that the host's part stays hidden."""
    f()
    f()
    torch.cuda.synchronize()
    at = [torch.cuda.Event(enable_timing=True) for _ in range(reps + 1)]
    for i in range(reps + 1):
        at[i].record()
        if i < reps:
            f()
    torch.cuda.synchronize()
    return statistics.median(at[i].elapsed_time(at[i + 1]) for i in range(reps))


print("torch", torch.__version__, "cudnn", torch.backends.cudnn.version(), torch.cuda.get_device_name())
a = torch.randn(8192, 8192, device=dev, dtype=torch.bfloat16)
b = torch.randn(8192, 8192, device=dev, dtype=torch.bfloat16)
print("gemm 8192^3 bf16: %.0f TFLOP/s" % (2 * 8192**3 / median_ms(lambda: a @ b) * 1e-9))
x, y = torch.empty(1 << 30, device=dev, dtype=torch.int32), torch.empty(1 << 30, device=dev, dtype=torch.int32)
print("copy: %.0f GB/s" % (8 * (1 << 30) / median_ms(lambda: y.copy_(x)) * 1e-6))
del a, b, x, y


def sdpa(n, backend, heads=32, kv=8, d=128, batch=1):
    q = torch.randn(batch, n, heads, d, device=dev, dtype=torch.bfloat16).transpose(1, 2)
    k = torch.randn(batch, n, kv, d, device=dev, dtype=torch.bfloat16).transpose(1, 2)
    v = torch.randn(batch, n, kv, d, device=dev, dtype=torch.bfloat16).transpose(1, 2)
    with sdpa_kernel(backend):
        ms = median_ms(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), 5 if n > 65536 else 20)
    return 4 * d * heads * batch * n * (n + 1) / 2 / ms * 1e-9


for name, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):
    for args in ((8192,), (32768,), (131072,), (4096, 32, 8, 128, 8), (32768, 32, 8, 64), (4096, 9, 3, 64, 32)):
        if name == "flash" and args[0] == 131072:
            continue
        n, rest = args[0], args[1:]
        try:
            print("%s causal %d %s: %.1f TFLOP/s" % (name, n, rest, sdpa(n, backend, *rest)), flush=True)
        except Exception as e:
            print("%s causal %d %s: %s" % (name, n, rest, str(e).splitlines()[0][:100]), flush=True)
