"""Pinned memory, on a driver that is played here: it keeps account like the real one and fails at whatever call it is told to."""

from __future__ import annotations

import gc
import mmap
import os
import platform
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from gcnrec.cuda import pinned, registrar
from gcnrec.cuda.hostmemory import adopt, allocate
from gcnrec.cuda.interop import Code, load_runtime
from gcnrec.cuda.pinned import MAPPED, PORTABLE, READ_ONLY, PinnedMemory, StagedMemory, pin_or_stage
from gcnrec.cuda.registrar import PinningRefused, Registrar
from gcnrec.errors import DeviceError
from gcnrec.system.limits import Limits

PAGE = mmap.PAGESIZE
ROOT = Path(__file__).parents[2]
OUT_OF_MEMORY, NOT_PERMITTED = 2, 800


class Driver:
    """A `Cudart` without a GPU. `fail` maps (call, how many such calls came before) to the code it returns."""

    def __init__(self, fail=None, shift=0, read_only=True):
        self.fail, self.shift, self.read_only = fail or {}, shift, read_only
        self.registered: dict[int, int] = {}
        self.calls: list[tuple[str, int]] = []
        self.flags: list[int] = []
        self.sticky = 0

    def _answer(self, call, address, code=0):
        before = sum(name == call for name, _ in self.calls)
        self.calls.append((call, address))
        answer = self.fail.get((call, before), code)
        if isinstance(answer, BaseException):
            raise answer
        self.sticky = answer or self.sticky
        return answer

    def register(self, address, nbytes, flags):
        def pages(start, size):
            return set(range(start // PAGE, -(-(start + size) // PAGE)))

        taken = any(pages(address, nbytes) & pages(*other) for other in self.registered.items())
        code = self._answer("register", address, Code.ALREADY_REGISTERED if taken else 1 if nbytes == 0 else 0)
        if code == 0:
            self.registered[address] = nbytes
            self.flags.append(flags)
        return code

    def synchronize(self):
        return self._answer("synchronize", 0)

    def unregister(self, address):
        code = self._answer("unregister", address, 0 if address in self.registered else Code.NOT_REGISTERED)
        if code == 0:
            del self.registered[address]
        return code

    def device_pointer(self, address):
        code = self._answer("device_pointer", address)
        moved = self.shift * (len([1 for name, _ in self.calls if name == "device_pointer"]) - 1)
        return code, 0 if code else address + moved

    def last_error(self):
        error, self.sticky = self.sticky, 0
        return error

    def error_name(self, code):
        return f"cudaError{code}"

    def maps_read_only(self):
        return self.read_only

    def called(self, name):
        return [address for call, address in self.calls if call == name]


def five_chunks(driver):
    return Registrar(driver, chunk_bytes=2 * PAGE), allocate(9 * PAGE)


def test_chunks_cover_the_memory_and_are_released_last_first():
    driver = Driver()
    chunked, memory = five_chunks(driver)
    with PinnedMemory(memory, chunked) as table:
        assert driver.registered == {memory.address + 2 * PAGE * k: 2 * PAGE if k < 4 else PAGE for k in range(5)}
        assert driver.flags == [PORTABLE | MAPPED] * 5
        assert table.device_address == memory.address
        assert chunked.registered_bytes == table.nbytes == 9 * PAGE
    assert driver.called("unregister") == driver.called("register")[::-1]
    assert driver.registered == {} and chunked.registered_bytes == 0
    table.close()
    assert len(driver.called("unregister")) == 5


def test_chunks_of_memory_that_starts_inside_a_page_meet_at_pages():
    driver = Driver()
    memory = adopt(allocate(5 * PAGE).content[100 : 4 * PAGE + 50])
    with PinnedMemory(memory, Registrar(driver, chunk_bytes=2 * PAGE)):
        starts = driver.called("register")
        assert starts[0] == memory.address and all(start % PAGE == 0 for start in starts[1:])
        assert sum(driver.registered.values()) == memory.nbytes


def test_chunks_are_whole_pages():
    driver = Driver()
    with PinnedMemory(allocate(3 * PAGE), Registrar(driver, chunk_bytes=1)):
        assert list(driver.registered.values()) == [PAGE] * 3


def test_an_address_space_full_of_table_never_needs_a_call_that_drivers_refuse():
    """A fake owner stands for 2 TiB: from 2^39 bytes on, one call fails."""
    driver = Driver()
    driver.register = lambda address, nbytes, flags: driver.calls.append(("register", nbytes)) or 0

    class Huge:
        address, nbytes = 4096 * 17 + 64, 1 << 41

    chunks = Registrar(driver).register(Huge(), 3)
    assert sum(chunk.nbytes for chunk in chunks) == 1 << 41 and max(chunk.nbytes for chunk in chunks) < 1 << 39


@pytest.mark.parametrize("failing", range(5))
def test_a_chunk_that_fails_takes_back_those_before(failing):
    driver = Driver({("register", failing): OUT_OF_MEMORY})
    chunked, memory = five_chunks(driver)
    with pytest.raises(PinningRefused, match=rf"{9 * PAGE:,} bytes.*refused .* with cudaError2.*ulimit -l.*table.placement"):
        PinnedMemory(memory, chunked)
    assert driver.registered == {} and driver.sticky == 0 and chunked.registered_bytes == 0
    assert driver.called("unregister") == driver.called("register")[:failing][::-1]
    PinnedMemory(memory, chunked).close()


@pytest.mark.parametrize("failing", range(5))
def test_an_interrupt_takes_back_everything(failing):
    driver = Driver({("register", failing): KeyboardInterrupt()})
    chunked, memory = five_chunks(driver)
    with pytest.raises(KeyboardInterrupt):
        PinnedMemory(memory, chunked)
    assert driver.registered == {} and driver.sticky == 0 and chunked.registered_bytes == 0


@pytest.mark.parametrize("failing", range(5))
def test_a_missing_device_address_takes_back_everything(failing):
    driver = Driver({("device_pointer", failing): 801})
    chunked, memory = five_chunks(driver)
    with pytest.raises(PinningRefused, match="cudaError801") as caught:
        PinnedMemory(memory, chunked)
    # While the traceback keeps the half-made object alive: no collector may be needed.
    assert driver.registered == {} and driver.sticky == 0 and caught.tb is not None


def test_device_addresses_other_than_the_hosts_are_refused():
    driver = Driver(shift=64)
    chunked, memory = five_chunks(driver)
    with pytest.raises(PinningRefused, match="piece 2 of 5 the driver answered another address"):
        PinnedMemory(memory, chunked)
    assert driver.registered == {}


@pytest.mark.parametrize("failing", range(5))
def test_a_chunk_that_stays_registered_keeps_its_memory_alive(failing):
    driver = Driver({("unregister", failing): NOT_PERMITTED})
    chunked, memory = five_chunks(driver)
    table = PinnedMemory(memory, chunked)
    with pytest.raises(DeviceError, match=r"5 pieces .* 1 of them the driver answered cudaError800"):
        table.close()
    assert len(driver.called("unregister")) == 5 and len(driver.registered) == 1 and driver.sticky == 0
    kept = weakref.ref(memory.content.base)
    del table, memory
    gc.collect()
    assert kept() is not None, "freed under a driver that still maps it"


def test_the_gpu_is_waited_for_before_memory_is_given_back():
    """By the end of the object too: a kernel may still read it."""
    for end in (PinnedMemory.close, lambda table: None):
        driver = Driver()
        chunked, memory = five_chunks(driver)
        table = PinnedMemory(memory, chunked)
        end(table)
        del table
        names = [name for name, _ in driver.calls]
        assert names[-6:] == ["synchronize"] + ["unregister"] * 5 and names.count("synchronize") == 1


@pytest.mark.parametrize("code", [Code.ILLEGAL_ADDRESS, Code.LAUNCH_FAILURE])
def test_after_a_kernel_that_failed_memory_is_let_go_without_a_word(code):
    """The failure was reported, and every call fails from then on."""
    driver = Driver({("synchronize", 0): code} | {("unregister", call): code for call in range(5)})
    chunked, memory = five_chunks(driver)
    PinnedMemory(memory, chunked).close()
    kept = weakref.ref(memory.content.base)
    del memory
    assert chunked.registered_bytes == 0 and kept() is None


def test_a_rollback_that_fails_reports_the_first_failure_and_keeps_the_memory():
    driver = Driver({("register", 2): OUT_OF_MEMORY, ("unregister", 0): NOT_PERMITTED})
    chunked, memory = five_chunks(driver)
    with pytest.raises(PinningRefused, match="cudaError2"):
        PinnedMemory(memory, chunked)
    assert chunked.registered_bytes == sum(driver.registered.values()) == 2 * PAGE
    with pytest.raises(DeviceError, match="pinned already"):
        PinnedMemory(memory, chunked)


def test_memory_that_someone_else_unregistered_is_reported_and_let_go():
    driver = Driver()
    chunked, memory = five_chunks(driver)
    table = PinnedMemory(memory, chunked)
    driver.registered.popitem()
    with pytest.raises(DeviceError, match=f"cudaError{Code.NOT_REGISTERED}"):
        table.close()
    assert driver.registered == {} and chunked.registered_bytes == 0


def test_an_exception_inside_the_block_and_a_lost_object_release():
    driver = Driver()
    chunked, memory = five_chunks(driver)
    with pytest.raises(ZeroDivisionError), PinnedMemory(memory, chunked):
        raise ZeroDivisionError
    assert driver.registered == {}
    table = PinnedMemory(memory, chunked)
    view = table.array((9, PAGE), np.uint8)
    del table
    gc.collect()
    assert len(driver.registered) == 5, "an array keeps its memory pinned"
    del view
    gc.collect()
    assert driver.registered == {}


def test_the_end_of_the_process_releases_the_last_first():
    program = """
from gcnrec.cuda.hostmemory import allocate
from gcnrec.cuda.pinned import PinnedMemory
from gcnrec.cuda.registrar import Registrar

class Driver:
    order = []
    def register(self, address, nbytes, flags): self.order.append(address); return 0
    def synchronize(self): return 4
    def unregister(self, address): print(self.order.index(address)); return 4
    def device_pointer(self, address): return 0, address

registrar = Registrar(Driver())
tables = [PinnedMemory(allocate(4096), registrar) for _ in range(3)]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout.split(), done.stderr) == (["2", "1", "0"], "")


def test_a_forked_child_leaves_the_registration_to_its_parent(monkeypatch):
    driver = Driver()
    chunked, memory = five_chunks(driver)
    table = PinnedMemory(memory, chunked)
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        table.close()
    assert len(driver.registered) == 5


def test_overlapping_memory_is_refused_in_whole_pages():
    driver = Driver()
    common = Registrar(driver)
    whole = allocate(8 * PAGE).content
    with PinnedMemory(adopt(whole[: 4 * PAGE + 10]), common):
        for part in (whole, whole[PAGE : 2 * PAGE], whole[4 * PAGE + 10 :], whole[:1]):
            with pytest.raises(DeviceError, match="pinned once"):
                PinnedMemory(adopt(part), common)
        with PinnedMemory(adopt(whole[5 * PAGE :]), common):
            assert len(driver.registered) == 2
    assert driver.called("register") == [whole.ctypes.data, whole.ctypes.data + 5 * PAGE], "refused without a call"


def test_nothing_is_registered_for_no_bytes():
    driver = Driver()
    with PinnedMemory(adopt(torch.empty(0, 64)), Registrar(driver)) as table:
        assert table.array((0, 64), np.float32).__cuda_array_interface__["data"] == (0, False)
    assert driver.calls == []


def test_adopted_memory_lives_as_long_as_it_is_pinned():
    driver = Driver()
    tensor = torch.arange(PAGE, dtype=torch.float32).view(-1, 64)
    table = PinnedMemory(adopt(tensor), Registrar(driver))
    address = tensor.data_ptr()
    del tensor
    gc.collect()
    assert table.device_address == address
    np.testing.assert_array_equal(table.array((PAGE // 64, 64), np.float32).host.reshape(-1), np.arange(PAGE))
    table.close()


def test_the_array_interface_names_the_device_address_and_the_pitch():
    memory = allocate(4 * PAGE)
    with PinnedMemory(memory, Registrar(Driver())) as table:
        rows_RD = table.array((10, 20), np.float32, pitch_bytes=128, offset=256)
        rows_RD.host[3] = np.arange(20)
        assert memory.content[256 + 3 * 128 :].view(np.float32)[:20].tolist() == list(range(20))
        interface = rows_RD.__cuda_array_interface__
        assert interface == {
            "version": 3, "shape": (10, 20), "typestr": "<f4", "strides": (128, 4),
            "data": (memory.address + 256, False), "stream": None,
        }  # fmt: skip
        assert table.array((4,), np.int64).__cuda_array_interface__["strides"] is None
        with pytest.raises(DeviceError, match="does not"):
            table.array((4 * PAGE + 1,), np.uint8)
    with pytest.raises(DeviceError, match="after they were closed"):
        _ = rows_RD.__cuda_array_interface__


def test_read_only_memory_needs_the_promise_and_the_device(tmp_path):
    path = tmp_path / "rows.bin"
    path.write_bytes(bytes(2 * PAGE))
    mapped = adopt(np.memmap(path, np.uint8, "r"))
    assert mapped.on_file and not mapped.writable
    with pytest.raises(PinningRefused, match="must be writable"):
        PinnedMemory(mapped, Registrar(Driver()))
    with pytest.raises(PinningRefused, match="this device pins no such memory"):
        PinnedMemory(mapped, Registrar(Driver(read_only=False)), read_only=True)
    for driver, memory, flags in [
        (Driver(), mapped, PORTABLE | MAPPED | READ_ONLY),
        (Driver(), allocate(PAGE), PORTABLE | MAPPED | READ_ONLY),
        (Driver(read_only=False), allocate(PAGE), PORTABLE | MAPPED),
    ]:
        with PinnedMemory(memory, Registrar(driver), read_only=True) as table:
            assert driver.flags == [flags]
            assert table.array((PAGE,), np.uint8).__cuda_array_interface__["data"][1] is True


def test_what_cannot_be_pinned_is_staged_with_the_reason(monkeypatch, tmp_path):
    memory = allocate(PAGE)
    for driver, word in [
        (Driver({("register", 0): NOT_PERMITTED}), "cudaError800"),
        (Driver({("register", 0): Code.ALREADY_REGISTERED}), "another library"),
        (Driver({("device_pointer", 0): 801}), "cudaError801"),
    ]:
        staged = pin_or_stage(memory, Registrar(driver))
        assert isinstance(staged, StagedMemory) and staged.memory is memory and word in staged.reason
    with monkeypatch.context() as windows:
        windows.setattr(platform, "release", lambda: "5.15.90.1-Microsoft-standard-WSL2")
        assert "Windows" in pin_or_stage(memory, Registrar(Driver())).reason
    on_file = adopt(np.memmap(tmp_path / "table", np.uint8, "w+", shape=PAGE))
    pinned_file = pin_or_stage(on_file, Registrar(Driver()))
    assert isinstance(pinned_file, PinnedMemory)
    pinned_file.close()
    monkeypatch.setattr(pinned, "read_limits", lambda: Limits(available=PAGE - 1, lockable=None))
    assert f"{PAGE:,} bytes of a file" in pin_or_stage(on_file, Registrar(Driver())).reason
    assert isinstance(pin_or_stage(memory, Registrar(Driver())), PinnedMemory), "what is in memory already stays there"


def test_a_refusal_names_the_limit_on_locked_memory(monkeypatch):
    monkeypatch.setattr(registrar, "read_limits", lambda: Limits(available=5000, lockable=65536))
    with pytest.raises(PinningRefused, match=r"5,000 bytes available and a limit of 65,536 on .* \(ulimit -l\)"):
        PinnedMemory(allocate(PAGE), Registrar(Driver({("register", 0): OUT_OF_MEMORY})))


@pytest.mark.parametrize("code", [Code.INSUFFICIENT_DRIVER, Code.NO_DEVICE, Code.INITIALIZATION, Code.DRIVER_MISMATCH])
def test_without_a_gpu_nothing_is_staged(code):
    driver = Driver({("register", 0): code})
    with pytest.raises(DeviceError, match="needs a GPU and a driver") as caught:
        pin_or_stage(allocate(PAGE), Registrar(driver))
    assert not isinstance(caught.value, PinningRefused) and caught.value.exit_code == 4 and driver.sticky == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    memory = allocate(64 * PAGE)
    memory.content[:] = np.arange(64 * PAGE) % 251
    own = Registrar(load_runtime(), chunk_bytes=16 * PAGE)
    with PinnedMemory(memory, own) as table:
        on_gpu = torch.as_tensor(table.array((16 * PAGE,), np.uint8), device="cuda")
        assert on_gpu.cpu().numpy().tolist() == memory.content[: 16 * PAGE].tolist()
    assert own.registered_bytes == 0
    own.register(memory, PORTABLE | MAPPED)
    assert isinstance(pin_or_stage(memory, Registrar(load_runtime())), StagedMemory)
    assert float(torch.ones(4, device="cuda").sum()) == 4.0, "no error was left behind"
    own.unregister(tuple(own._held))
