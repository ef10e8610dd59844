import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DmaPool, DmaReleaseError } from 'dmapool';
import { type DmaStopped, PciError, PciFunction, PciGoneError, type RawConfigSpace } from 'dmapool/pci';
import { rejectsCode } from '../support/errors.ts';
import { RecordingLog } from '../support/log.ts';
import { until } from '../support/until.ts';
import { FakeBackend, FakeInterrupts } from './fake-backend.ts';

const COMMAND = 4;
const BUS_MASTER = 4;
const DMA_ACTIVE = 'ERR_DMAPOOL_PCI_DMA_ACTIVE';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A function in a backend whose driver accesses reject after `removed`, as those of VFIO and QEMU do. */
class GuardedBackend extends FakeBackend {
  /** True: bus mastering cannot be switched off. */
  sticks = false;
  /** Called before each raw access with its number, from 1 on; the result is awaited. */
  onAccess: (count: number) => Promise<void> | void = () => undefined;
  accesses = 0;
  onReset: () => Promise<boolean> = () => Promise.resolve(false);
  onSettle: () => Promise<void> = () => Promise.resolve();
  isolated = false;
  readonly rawConfig: RawConfigSpace = {
    read: async (offset, width) => {
      await this.onAccess(++this.accesses);
      return super.readConfig(offset, width);
    },
    write: async (offset, width, value) => {
      await this.onAccess(++this.accesses);
      await super.writeConfig(offset, width, offset === COMMAND && this.sticks ? value | BUS_MASTER : value);
    },
  };

  get isBusMaster(): boolean {
    return (this.config.getUint16(COMMAND, true) & BUS_MASTER) !== 0;
  }

  override readConfig(offset: number, width: 8 | 16 | 32): Promise<number> {
    return this.#reject() ?? super.readConfig(offset, width);
  }

  override writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    return this.#reject() ?? super.writeConfig(offset, width, value);
  }

  override flush(): Promise<void> {
    return this.#reject() ?? super.flush();
  }

  override reset(): Promise<boolean> {
    this.calls.push('reset');
    return this.onReset();
  }

  settle(): Promise<void> {
    this.calls.push('settle');
    return this.onSettle();
  }

  #reject(): Promise<never> | null {
    return this.removed.aborted ? Promise.reject(this.removed.reason as Error) : null;
  }
}

/** A backend that can isolate the function from memory. */
class IsolatingBackend extends GuardedBackend {
  isolate(): Promise<void> {
    this.isolated = true;
    return Promise.resolve();
  }
}

interface Bench<B extends GuardedBackend> {
  readonly backend: B;
  readonly fn: PciFunction;
  readonly log: RecordingLog;
}

/** An active function with a page of memory. */
async function atWork<B extends GuardedBackend>(backend: B): Promise<Bench<B>> {
  const log = new RecordingLog();
  const fn = await PciFunction.open(backend, { log });
  DmaPool.createManaged('p', fn.device, { size: 64 }).alloc();
  await fn.enableBusMaster();
  backend.calls.length = 0;
  return { backend, fn, log };
}

/** Invariant of every history: memory is freed only when the function does no DMA. */
function assertSafe({ backend, fn }: Bench<GuardedBackend>): void {
  const quiet = !backend.isBusMaster || backend.gone || backend.isolated;
  assert.ok(quiet || backend.memory.bytesInUse === 4096, 'no memory is released under a live device');
  assert.equal(fn.device.bytesAllocated, backend.memory.bytesInUse);
}

void describe('stopDma()', () => {
  void it('switches bus mastering off, and the proof holds until it is switched on again', async () => {
    const { backend, fn } = await atWork(new GuardedBackend());
    const proof: DmaStopped = await fn.stopDma();
    assert.deepEqual([proof.reason, proof.holds, backend.isBusMaster], ['bus-master-off', true, false]);
    assert.deepEqual(backend.calls, ['config 4 = 3', 'settle']);
    await fn.stopDma();
    assert.deepEqual(backend.calls, ['config 4 = 3', 'settle'], 'nothing is in flight since then');
    await fn.enableBusMaster();
    assert.equal(proof.holds, false);
    assert.equal((await fn.stopDma()).holds, true);
    await fn.config.write16(COMMAND, 7);
    assert.equal(await fn.isBusMaster(), true);
    assert.equal((await fn.stopDma({ stop: () => Promise.resolve() })).reason, 'bus-master-off');
    assert.equal(backend.isBusMaster, false);
    await fn.close();
  });

  void it('waits for transactions in flight, unless the driver stopped the device itself', async () => {
    for (const [stop, settles] of [
      [() => Promise.resolve(), false],
      [() => Promise.reject(new Error('the device does not stop')), true],
      [() => new Promise<void>(() => undefined), true],
    ] as const) {
      const { backend, fn } = await atWork(new GuardedBackend());
      assert.equal((await fn.stopDma({ stop, timeout: 20 })).reason, 'bus-master-off');
      assert.equal(backend.calls.includes('settle'), settles);
      await fn.close();
    }
  });

  void it('waits for transactions in flight too if the driver switched bus mastering off itself', async () => {
    const { backend, fn } = await atWork(new GuardedBackend());
    await fn.disableBusMaster();
    await fn.close();
    assert.ok(backend.calls.includes('settle'));
  });

  void it('reaches the function after the kernel requested its release', async () => {
    const bench = await atWork(new GuardedBackend());
    const { backend, fn } = bench;
    backend.controller.abort(new PciError('ERR_DMAPOOL_PCI_RELEASE_REQUESTED', fn.address, 'unbind'));
    await rejectsCode('ERR_DMAPOOL_PCI_RELEASE_REQUESTED', fn.isBusMaster());
    assertSafe(bench);
    assert.equal((await fn.stopDma()).reason, 'bus-master-off');
    assert.equal(backend.isBusMaster, false);
    await fn.close();
    assert.equal(backend.memory.bytesInUse, 0);
  });

  void it('does not accept a rejected reset as proof', async () => {
    const bench = await atWork(new GuardedBackend());
    const { backend, fn, log } = bench;
    backend.sticks = true;
    backend.onReset = () => Promise.reject(new Error("can't reset it: EAGAIN"));
    const error = await rejectsCode(DMA_ACTIVE, fn.stopDma());
    assert.match(error.message, /bus mastering reads as enabled after it was disabled; .*EAGAIN/);
    assert.ok(error.cause instanceof AggregateError && error.cause.errors.length === 2);
    const failed = await rejectsCode('ERR_DMAPOOL_RELEASE', fn.close());
    assert.ok(failed instanceof DmaReleaseError);
    assert.deepEqual(
      failed.errors.map((each) => (each as PciError).code),
      [DMA_ACTIVE],
    );
    assertSafe(bench);
    assert.match(log.text, /error 0000:00:05.0: 4096 bytes of memory stay reserved/);
    assert.equal(backend.calls.includes('close'), false);
    assert.ok(fn.closed);
    // A later close tries again.
    backend.sticks = false;
    await fn.close();
    assert.equal(backend.memory.bytesInUse, 0);
    assert.equal(backend.calls.filter((call) => call === 'close').length, 1);
    assert.equal((await fn.stopDma()).reason, 'bus-master-off', 'the earlier proof');
  });

  void it('accepts a reset as proof', async () => {
    const { backend, fn } = await atWork(new GuardedBackend());
    backend.onSettle = () => Promise.reject(new Error('a disk hangs'));
    backend.onReset = () => Promise.resolve(true);
    assert.equal((await fn.stopDma()).reason, 'reset');
    await fn.close();
    assert.equal(backend.memory.bytesInUse, 0);
  });

  void it('does not accept a reset after which bus mastering reads as enabled', async () => {
    const { backend, fn } = await atWork(new GuardedBackend());
    backend.sticks = true;
    backend.onReset = () => Promise.resolve(true); // it says so, and did nothing
    await rejectsCode(DMA_ACTIVE, fn.stopDma());
    const reset = fn.reset();
    await rejectsCode(DMA_ACTIVE, fn.stopDma());
    assert.equal(await reset, true);
    backend.sticks = false;
    await fn.close();
    assert.equal(backend.memory.bytesInUse, 0);
  });

  void it('waits for a reset in progress', async () => {
    const { backend, fn } = await atWork(new GuardedBackend());
    let end: (done: boolean) => void = () => undefined;
    backend.onReset = () => new Promise((resolve) => (end = resolve));
    const reset = fn.reset();
    const stopped = fn.stopDma();
    setTimeout(() => {
      end(true);
    }, 20);
    assert.deepEqual([await reset, (await stopped).reason, backend.isBusMaster], [true, 'reset', false]);
    await fn.close();
  });

  void it('does not take all ones during a reset for a missing device', { timeout: 30_000 }, async () => {
    const bench = await atWork(new GuardedBackend());
    const { backend, fn } = bench;
    let end: (done: boolean) => void = () => undefined;
    backend.onReset = () => {
      backend.gone = true;
      return new Promise((resolve) => (end = resolve));
    };
    const reset = fn.reset();
    await rejectsCode(DMA_ACTIVE, fn.stopDma());
    backend.gone = false;
    end(false);
    assert.equal(await reset, false);
    assertSafe(bench);
    await fn.close();
    assert.equal(backend.memory.bytesInUse, 0);
  });

  void it('does not accept a reset as proof when bus mastering was switched on during it', async () => {
    const { backend, fn } = await atWork(new GuardedBackend());
    let end: (done: boolean) => void = () => undefined;
    backend.onReset = () => new Promise((resolve) => (end = resolve));
    const reset = fn.reset();
    await turn();
    await fn.enableBusMaster();
    backend.sticks = true;
    const stopped = rejectsCode(DMA_ACTIVE, fn.stopDma({ timeout: 50 }));
    end(true);
    assert.equal(await reset, true);
    backend.onReset = () => Promise.resolve(false);
    await stopped;
    backend.sticks = false;
    await fn.close();
  });

  void it('ignores a reset capability that reads all ones', async () => {
    for (const [id, register, ones] of [
      [0x10, 0x44, 0xffff_ffff],
      [0x13, 0x43, 0xff],
    ] as const) {
      const backend = new GuardedBackend();
      backend.putCapabilities([id, 0x40]);
      if (ones === 0xff) backend.config.setUint8(register, ones);
      else backend.config.setUint32(register, ones, true);
      const { fn } = await atWork(backend);
      assert.equal(await fn.reset(), false);
      await fn.close();
    }
  });

  void it('starts a function-level reset even if the register reads all ones', async () => {
    const backend = new GuardedBackend();
    backend.putCapabilities([0x10, 0x40]);
    backend.config.setUint32(0x44, 1 << 28, true);
    const { fn } = await atWork(backend);
    backend.config.setUint16(0x48, 0xffff, true);
    backend.calls.length = 0;
    assert.equal(await fn.reset(), true);
    assert.ok(backend.calls.includes(`config 72 = ${String(0xffff)}`), backend.calls.join());
    await fn.close();
  });

  void it('is not undone by an earlier call that is still switching bus mastering on', async () => {
    const bench = await atWork(new GuardedBackend());
    const { backend, fn } = bench;
    await fn.disableBusMaster();
    let answer: () => void = () => undefined;
    const slow = new Promise<void>((resolve) => (answer = resolve));
    const read = backend.readConfig.bind(backend);
    backend.readConfig = (offset, width) => slow.then(() => read(offset, width));
    const enabled = rejectsCode('ERR_DMAPOOL_PCI_BUSY', fn.enableBusMaster());
    const proof = await fn.stopDma();
    answer();
    await enabled;
    assert.equal(backend.isBusMaster, false);
    assert.equal(proof.holds, true);
    await fn.close();
  });

  void it('resolves for a driver that calls it when close() ends its waits', async () => {
    const bench = await atWork(new GuardedBackend());
    const { backend, fn } = bench;
    backend.interrupts = new FakeInterrupts('msix');
    const interrupts = await fn.interrupts();
    const stopped = interrupts.wait().catch(() => fn.stopDma());
    await turn();
    let isClosed = false;
    backend.close = () => {
      isClosed = true;
      return Promise.resolve();
    };
    backend.onAccess = () => {
      assert.ok(!isClosed, 'no access after close');
    };
    await fn.close();
    assert.equal(((await stopped) as DmaStopped).holds, true);
  });

  void it('closes the backend once when an access of close() calls close() again', async () => {
    const { backend, fn } = await atWork(new GuardedBackend());
    let again: Promise<void> | null = null;
    backend.flush = () => {
      again ??= fn.close();
      return Promise.resolve();
    };
    await fn.close();
    await (again as Promise<void> | null);
    assert.equal(backend.calls.filter((call) => call === 'close').length, 1);
  });

  void it('does not access a function that was closed while a register was read', async () => {
    const { backend, fn } = await atWork(new GuardedBackend());
    let answer: (value: number) => void = () => undefined;
    backend.read = () => new Promise((resolve) => (answer = resolve));
    const read = rejectsCode('ERR_DMAPOOL_PCI_CLOSED', fn.bar(0).read32(0));
    await fn.close();
    backend.readConfig = () => assert.fail('read after close');
    answer(0xffff_ffff);
    await read;
  });

  void it('does not reset a function that was closed while its state was being saved', async () => {
    const { backend, fn } = await atWork(new GuardedBackend());
    const LAST = 0x06;
    let answer: (() => void) | null = null;
    const slow = new Promise<void>((resolve) => (answer = resolve));
    let isFirst = true;
    backend.rawConfig.read = async (offset, width) => {
      const value = await FakeBackend.prototype.readConfig.call(backend, offset, width);
      if (offset === LAST && isFirst) {
        isFirst = false;
        await slow;
      }
      return value;
    };
    const reset = rejectsCode('ERR_DMAPOOL_PCI_CLOSED', fn.reset());
    await until('the state is saved', () => !isFirst);
    await fn.close();
    backend.calls.length = 0;
    answer!();
    await reset;
    assert.deepEqual(backend.calls, []);
  });

  void it('does not access a function that was closed while its MSI-X table was being saved for a reset', async () => {
    const backend = new GuardedBackend();
    backend.putCapabilities([0x11, 0x40]);
    backend.config.setUint16(0x42, 0x8001, true);
    backend.config.setUint32(0x44, 0x800, true);
    const { fn } = await atWork(backend);
    let reads = 0;
    let answer: (value: number) => void = () => undefined;
    backend.read = () => {
      reads++;
      return new Promise((resolve) => (answer = resolve));
    };
    const reset = rejectsCode('ERR_DMAPOOL_PCI_CLOSED', fn.reset());
    await until('the table is being saved', () => reads === 1);
    await fn.close();
    answer(7);
    await reset;
    assert.equal(reads, 1);
  });

  void it('detects that the function is gone', async () => {
    const { backend, fn } = await atWork(new GuardedBackend());
    backend.gone = true;
    assert.equal((await fn.stopDma()).reason, 'gone');
    backend.controller.abort(new PciGoneError(fn.address, 'pulled'));
    assert.equal((await fn.stopDma()).reason, 'gone');
    await fn.close();
    assert.equal(backend.memory.bytesInUse, 0);
  });

  void it('shares one attempt among concurrent callers', async () => {
    const { backend, fn } = await atWork(new GuardedBackend());
    const proofs = await Promise.all([fn.stopDma(), fn.stopDma(), fn.stopDma({ timeout: 1 })]);
    assert.ok(proofs.every((proof) => proof === proofs[0]));
    assert.deepEqual(backend.calls, ['config 4 = 3', 'settle']);
    await fn.close();
  });

  void it('gives up on a driver that keeps switching bus mastering on', async () => {
    const bench = await atWork(new GuardedBackend());
    const { fn } = bench;
    await rejectsCode(DMA_ACTIVE, fn.stopDma({ stop: () => fn.enableBusMaster() }));
    let once = true;
    const proof = await fn.stopDma({
      stop: () => (once ? ((once = false), fn.enableBusMaster()) : Promise.resolve()),
    });
    assert.equal(proof.holds, true);
    assertSafe(bench);
    await fn.close();
  });

  void it('isolates the function at close only', async () => {
    const { backend, fn, log } = await atWork(new IsolatingBackend());
    backend.sticks = true;
    await rejectsCode(DMA_ACTIVE, fn.stopDma());
    assert.equal(backend.isolated, false);
    await fn.close();
    assert.ok(backend.isolated);
    assert.equal(backend.memory.bytesInUse, 0);
    assert.equal(log.text.includes('reserved'), false);
    assert.equal((await fn.stopDma()).reason, 'gone');
  });

  void it('does not wait forever for a backend that does not close', async (t) => {
    const { backend, fn } = await atWork(new GuardedBackend());
    let asked = false;
    backend.close = () => {
      asked = true;
      return new Promise(() => undefined);
    };
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const closing = rejectsCode('ERR_DMAPOOL_RELEASE', fn.close());
    while (!asked) await new Promise((resolve) => setImmediate(resolve));
    t.mock.timers.tick(90_000);
    const { errors } = (await closing) as DmaReleaseError;
    assert.deepEqual(
      errors.map((error) => (error as PciError).code),
      ['ERR_DMAPOOL_PCI_TIMEOUT'],
    );
    assert.match(String(errors[0]), /0000:00:05\.0: closing its backend took longer than 90000 ms/);
    assert.equal(backend.memory.bytesInUse, 0);
  });

  void it('refuses wrong options', async () => {
    const { fn } = await atWork(new GuardedBackend());
    for (const options of [{ stop: 1 }, { timeout: 0 }, { timeout: 600_001 }, { wrong: 1 }, null]) {
      await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', fn.stopDma(options as object));
    }
    await fn.close();
  });

  const faults: readonly (readonly [string, (backend: GuardedBackend) => Promise<void> | void])[] = [
    ['rejects', () => Promise.reject(new Error('no answer'))],
    ['hangs', () => new Promise<void>(() => undefined)],
    ['is slow', () => new Promise((resolve) => setTimeout(resolve, 5))],
    ['throws', () => assert.fail('thrown')],
  ];
  for (const [name, fault] of faults) {
    void it(`releases nothing under a live device when the k-th access ${name}, for each k`, async () => {
      for (const removed of [false, true]) {
        // Each time-out takes its time.
        for (let k = 1; k <= (name === 'hangs' ? 3 : 12); k++) {
          const bench = await atWork(new GuardedBackend());
          const { backend, fn } = bench;
          if (removed) backend.controller.abort(new PciGoneError(fn.address, 'the error was reported'));
          backend.sticks = name !== 'hangs' && k % 2 === 0;
          const first = backend.accesses;
          backend.onAccess = (count) => (count - first === k ? fault(backend) : undefined);
          const outcome = await fn.stopDma({ timeout: 20 }).catch((error: unknown) => error);
          if (outcome instanceof Error) assert.equal((outcome as PciError).code, DMA_ACTIVE);
          else assert.equal(backend.isBusMaster, false);
          await fn.close().catch(() => undefined);
          assertSafe(bench);
          backend.sticks = false;
          await fn.close();
          assert.equal(backend.memory.bytesInUse, 0);
        }
      }
    });
  }
});
