cuda_architectures: str
cuda_version: str
torch_version: str
compiler: str
cuda_torch_found: int
cpu_level: int

def take_interruption() -> BaseException | None: ...
