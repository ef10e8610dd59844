import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { PciFunction, PciGoneError } from 'dmapool/pci';
import { rejectsCode } from '../support/errors.ts';
import { RecordingLog } from '../support/log.ts';
import { FakeBackend, FakeInterrupts } from './fake-backend.ts';

async function opened(
  interrupts: FakeInterrupts | null,
): Promise<{ backend: FakeBackend; fn: PciFunction; log: RecordingLog }> {
  const backend = new FakeBackend();
  backend.interrupts = interrupts;
  const log = new RecordingLog();
  return { backend, fn: await PciFunction.open(backend, { log }), log };
}

void describe('interrupts', () => {
  void it('are reported once when a wait times out with bus mastering off', async () => {
    const source = new FakeInterrupts('msi');
    const { fn, log } = await opened(source);
    const interrupts = await fn.interrupts();
    const early = interrupts.wait();
    source.fire(0);
    assert.equal(await early, true);
    await fn.enableBusMaster();
    assert.equal(await interrupts.wait({ timeout: 5 }), false);
    assert.equal(log.text, '', 'no warning for a wait that succeeds or is short');
    await fn.stopDma();
    const long = interrupts.wait();
    await delay(1100);
    assert.match(log.text, /^warn 0000:00:05\.0: waits for an interrupt while bus mastering is off: .*$/);
    source.fire(0);
    assert.equal(await long, true);
    assert.equal(await interrupts.wait({ timeout: 5 }), false);
    assert.equal(log.lines.length, 1);
    await fn.close();
  });

  void it('end a wait: each vector ends all waits on it, and no others', async () => {
    const source = new FakeInterrupts('msix', 3);
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts({ vectors: 3 });
    assert.deepEqual([interrupts.kind, interrupts.vectors], ['msix', 3]);
    const waits = [0, 1, 1].map((vector) => interrupts.wait({ vector, timeout: 30 }));
    source.fire(1);
    assert.deepEqual(await Promise.all(waits), [false, true, true]);
  });

  void it('end one later wait if they are events that arrive between two waits', async () => {
    const source = new FakeInterrupts('msi');
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts();
    source.fire(0);
    source.fire(0);
    assert.equal(await interrupts.wait(), true);
    assert.equal(await interrupts.wait({ timeout: 5 }), false);
  });

  void it('count only while asserted if they are levels', async () => {
    const source = new FakeInterrupts('intx');
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts();
    source.fire(0);
    assert.equal(await interrupts.wait({ timeout: 5 }), false, 'deasserted meanwhile');
    source.rearmed = () => Promise.resolve(true);
    assert.equal(await interrupts.wait(), true);
  });

  void it('are not lost when a wait ends otherwise while it is being armed', async () => {
    for (const kind of ['msi', 'intx'] as const) {
      const source = new FakeInterrupts(kind);
      const { fn } = await opened(source);
      const interrupts = await fn.interrupts();
      let answer: (pending: boolean) => void = () => undefined;
      source.rearmed = () => new Promise((resolve) => (answer = resolve));
      assert.equal(await interrupts.wait({ timeout: 1 }), false);
      answer(true);
      await delay(1);
      source.rearmed = () => Promise.resolve(false);
      assert.equal(await interrupts.wait({ timeout: 5 }), kind === 'msi', kind);
    }
  });

  void it('that were asserted during an earlier wait do not end a later one', async () => {
    const source = new FakeInterrupts('intx');
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts();
    let answer: (pending: boolean) => void = () => undefined;
    source.rearmed = () => new Promise((resolve) => (answer = resolve));
    const first = interrupts.wait();
    source.fire(0);
    assert.equal(await first, true);
    source.rearmed = () => Promise.resolve(false);
    const second = interrupts.wait({ timeout: 10 });
    answer(true);
    assert.equal(await second, false);
  });

  void it('can be awaited with a signal that aborts before or during the wait', async () => {
    const { fn } = await opened(new FakeInterrupts('intx'));
    const interrupts = await fn.interrupts();
    const reason = new Error('enough');
    await assert.rejects(interrupts.wait({ signal: AbortSignal.abort(reason) }), reason);
    const controller = new AbortController();
    const wait = interrupts.wait({ signal: controller.signal });
    controller.abort(reason);
    await assert.rejects(wait, reason);
    // The wait rejects with any reason, whatever its type.
    const odd = new AbortController();
    const another = interrupts.wait({ signal: odd.signal });
    odd.abort(true);
    await assert.rejects(another, (thrown) => thrown === true);
  });

  void it('are not listened for when no wait is left', async () => {
    const source = new FakeInterrupts('msix', 2);
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts({ vectors: 2 });
    const controller = new AbortController();
    const waits = [
      interrupts.wait({ vector: 1, timeout: 5 }),
      interrupts.wait({ vector: 1, signal: controller.signal }).catch(() => 'ended'),
    ];
    assert.equal(await waits[0], false);
    assert.deepEqual(source.disarmed, [], 'a wait is left');
    controller.abort();
    assert.equal(await waits[1], 'ended');
    assert.deepEqual(source.disarmed, [1]);
    const wait = interrupts.wait();
    await new Promise(setImmediate);
    source.fire(0);
    assert.equal(await wait, true);
    assert.deepEqual(source.disarmed, [1], 'no pending interrupt to save: it was delivered');
    await fn.close();
  });

  void it('reject with the error of their backend', async () => {
    const source = new FakeInterrupts('intx');
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts();
    source.rearmed = () => Promise.reject(new Error('the backend broke'));
    await assert.rejects(interrupts.wait(), /the backend broke/);
  });

  void it('end with the device, and with their close', async () => {
    const { backend, fn } = await opened(new FakeInterrupts('intx'));
    const interrupts = await fn.interrupts();
    const wait = rejectsCode('ERR_DMAPOOL_PCI_GONE', interrupts.wait());
    backend.controller.abort(new PciGoneError(fn.address, 'pulled'));
    await wait;
    await rejectsCode('ERR_DMAPOOL_PCI_GONE', interrupts.wait());

    const source = new FakeInterrupts('intx');
    const other = await opened(source);
    const opening = other.fn.interrupts();
    await rejectsCode('ERR_DMAPOOL_PCI_BUSY', other.fn.interrupts());
    const theirs = await opening;
    await rejectsCode('ERR_DMAPOOL_PCI_BUSY', other.fn.interrupts());
    const closing = rejectsCode('ERR_DMAPOOL_PCI_CLOSED', theirs.wait());
    await theirs.close();
    await theirs.close();
    await closing;
    assert.equal(source.closed, 1);
    await rejectsCode('ERR_DMAPOOL_PCI_CLOSED', theirs.wait());
    const again = await other.fn.interrupts();
    const last = rejectsCode('ERR_DMAPOOL_PCI_CLOSED', again.wait());
    await other.fn.close();
    await last;
  });

  void it('that are being opened while the function is closed are closed too', async () => {
    const source = new FakeInterrupts('intx');
    const { fn } = await opened(source);
    const opening = rejectsCode('ERR_DMAPOOL_PCI_CLOSED', fn.interrupts());
    await fn.close();
    await opening;
    assert.equal(source.closed, 1);
  });

  void it('are closed before the backend if they are still being opened or closed when the function is closed', async () => {
    for (const slow of ['open', 'close'] as const) {
      const source = new FakeInterrupts('intx');
      const { backend, fn } = await opened(source);
      let go: () => void = () => undefined;
      const late = new Promise<void>((resolve) => (go = resolve));
      const open = backend.openInterrupts.bind(backend);
      if (slow === 'open') backend.openInterrupts = (kinds) => late.then(() => open(kinds));
      source.close = async () => {
        if (slow === 'close') await late;
        backend.calls.push('interrupts closed');
      };
      const closing = fn.interrupts().then((interrupts) => interrupts.close());
      const rejected = slow === 'open' ? rejectsCode('ERR_DMAPOOL_PCI_CLOSED', closing) : closing;
      await delay(1);
      const closed = fn.close();
      await delay(10);
      assert.equal(backend.calls.includes('close'), false);
      go();
      await Promise.all([closed, rejected]);
      assert.deepEqual(backend.calls.slice(-2), ['interrupts closed', 'close'], slow);
    }
  });

  void it('that open after the time limit of the close are not used after the backend was closed', async (t) => {
    const source = new FakeInterrupts('intx');
    const { backend, fn } = await opened(source);
    let go: () => void = () => undefined;
    const open = backend.openInterrupts.bind(backend);
    backend.openInterrupts = async (kinds) => {
      await new Promise<void>((resolve) => (go = resolve));
      return open(kinds);
    };
    const opening = rejectsCode('ERR_DMAPOOL_PCI_CLOSED', fn.interrupts());
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const closing = rejectsCode('ERR_DMAPOOL_RELEASE', fn.close());
    for (let turns = 0; turns < 20; turns++) await new Promise((resolve) => setImmediate(resolve));
    t.mock.timers.tick(10_000);
    await closing;
    assert.equal(backend.calls.at(-1), 'close');
    go();
    await opening;
    assert.equal(source.closed, 0);
  });

  void it('cannot be opened again before they are closed', async () => {
    const source = new FakeInterrupts('intx');
    const { fn } = await opened(source);
    let go: () => void = () => undefined;
    source.close = () => new Promise<void>((resolve) => (go = resolve));
    const interrupts = await fn.interrupts();
    const closing = interrupts.close();
    await rejectsCode('ERR_DMAPOOL_PCI_BUSY', fn.interrupts());
    go();
    await closing;
    await (await fn.interrupts()).wait({ timeout: 0 });
    const closed = fn.close();
    await delay(1);
    go();
    await closed;
  });

  void it('are polled where the function has none, or refused', async () => {
    const { backend, fn } = await opened(null);
    await rejectsCode('ERR_DMAPOOL_PCI_UNSUPPORTED', fn.interrupts({ kinds: ['msix', 'intx'] }));
    for (const pollInterval of [0, 1]) {
      const interrupts = await fn.interrupts({ pollInterval });
      assert.equal(interrupts.kind, 'poll');
      const flushes = backend.calls.length;
      for (let i = 0; i < 3; i++) assert.equal(await interrupts.wait(), true);
      assert.equal(backend.calls.length, flushes + 3, 'are armed after posted writes have arrived');
      await interrupts.close();
    }
    const slow = await fn.interrupts({ kinds: ['poll'], pollInterval: 60_000 });
    assert.equal(await slow.wait({ timeout: 2 }), false);
    await slow.close();
  });

  void it('are not armed when busy polling finds the event', async () => {
    const source = new FakeInterrupts('msix');
    const { fn } = await opened(source);
    let armed = 0;
    source.rearmed = () => Promise.resolve(++armed < 0);
    const interrupts = await fn.interrupts({ busyPoll: 1000 });
    for (const turns of [0, 1, 5]) {
      let looks = 0;
      assert.equal(await interrupts.wait({ ready: () => looks++ === turns }), true);
      assert.equal(looks, turns + 1);
    }
    assert.equal(armed, 0);
    // Without a check function busy polling is impossible.
    assert.equal(await interrupts.wait({ timeout: 1 }), false);
    assert.equal(armed, 1);
  });

  void it('are awaited when busy polling finds nothing in its time', { timeout: 30_000 }, async () => {
    for (const [kind, busyPoll] of [
      ['msix', 0.1],
      ['intx', 2],
      ['msi', 0],
    ] as const) {
      const source = new FakeInterrupts(kind);
      const { fn } = await opened(source);
      const arming = new Promise<void>((resolve) => {
        source.rearmed = () => {
          resolve();
          return Promise.resolve(false);
        };
      });
      const interrupts = await fn.interrupts({ busyPoll });
      let looks = 0;
      const wait = interrupts.wait({ ready: () => ++looks < 0 });
      await arming;
      const before = looks;
      // One look when the wait begins.
      assert.equal(looks > 1, busyPoll > 0);
      await delay(2);
      assert.equal(looks, before, 'the check runs no more');
      source.fire(0);
      assert.equal(await wait, true);
    }
  });

  void it('are awaited without polling by default, unless the latest wait was short', { timeout: 30_000 }, async () => {
    const source = new FakeInterrupts('msix');
    const { fn } = await opened(source);
    let armed = 0;
    source.rearmed = () => Promise.resolve(++armed < 0);
    const interrupts = await fn.interrupts();
    let looks = 0;
    const ready = (): boolean => ++looks < 0;
    const first = interrupts.wait({ ready });
    await delay(5);
    assert.deepEqual([looks, armed], [1, 1], 'one look, then asleep');
    source.fire(0);
    assert.equal(await first, true);
    // A wait that ends in the same turn is the shortest possible. A loaded machine may need several attempts.
    for (;;) {
      looks = armed = 0;
      const short = interrupts.wait({ ready });
      source.fire(0);
      assert.equal(await short, true);
      looks = armed = 0;
      const polled = interrupts.wait({ ready });
      const isPolled = armed === 0;
      await delay(5);
      assert.equal(armed, 1, 'polling ends');
      const before = looks;
      await delay(2);
      assert.equal(looks, before, 'asleep');
      source.fire(0);
      assert.equal(await polled, true);
      if (isPolled && before > 1) break;
    }
    looks = armed = 0;
    const last = interrupts.wait({ ready });
    await delay(2);
    assert.deepEqual([looks, armed], [1, 1], 'asleep at once after a long wait');
    source.fire(0);
    assert.equal(await last, true);
  });

  void it('are preceded by polling again and again, while the device is fast', { timeout: 60_000 }, async () => {
    const source = new FakeInterrupts('msix');
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts();
    let armed = 0;
    source.rearmed = () => {
      armed++;
      setImmediate(() => {
        source.fire(0);
      });
      return Promise.resolve(false);
    };
    const polled: boolean[] = [];
    // On a loaded machine a wait may be long, and the next one is not polled.
    for (let i = 0; i < 60; i++) {
      armed = 0;
      let looks = 0;
      await interrupts.wait({ ready: () => ++looks === 3 });
      polled.push(armed === 0);
      await delay(2);
    }
    assert.ok(polled.slice(30).includes(true), polled.join());
  });

  void it('leave turns to the event loop if each wait ends when it begins', async () => {
    const signals: ((source: FakeInterrupts) => () => Promise<boolean>)[] = [
      // The device has signalled each completion: the backend has it at once, or the event loop later.
      () => () => Promise.resolve(true),
      (source) => () => {
        setImmediate(() => {
          source.fire(0);
        });
        return Promise.resolve(false);
      },
    ];
    for (const signal of signals) {
      for (const busyPoll of [0, 'adaptive', 1000] as const) {
        for (const ready of [() => true, () => false, undefined]) {
          const source = new FakeInterrupts('msix');
          const { fn } = await opened(source);
          source.rearmed = signal(source);
          const interrupts = await fn.interrupts({ busyPoll });
          let turns = 0;
          setTimeout(() => turns++, 1);
          let waits = 0;
          while (turns === 0 && waits < 100_000) {
            await interrupts.wait({ ...(ready === undefined ? {} : { ready }) });
            waits++;
          }
          assert.equal(turns, 1, `busyPoll ${String(busyPoll)}: ${String(waits)} waits`);
        }
      }
    }
  });

  void it('are preceded by a look, in every wait', async () => {
    const { fn } = await opened(new FakeInterrupts('msix', 64));
    const interrupts = await fn.interrupts({ vectors: 64, busyPoll: 0 });
    for (let i = 0; i < 40; i++) assert.equal(await interrupts.wait({ timeout: 1, ready: () => false }), false);
    assert.equal(await interrupts.wait({ timeout: 1000, ready: () => true }), true);
    const looked = new Set<number>();
    const waits = Array.from({ length: 64 }, (_, vector) =>
      interrupts.wait({ vector, timeout: 1000, ready: () => looked.add(vector).size > 0 }),
    );
    assert.deepEqual(new Set(await Promise.all(waits)), new Set([true]));
    assert.equal(looked.size, 64);
  });

  void it('end a wait whose time is over if the device or memory shows them then', async () => {
    const source = new FakeInterrupts('msix');
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts({ busyPoll: 0 });
    let looks = 0;
    assert.equal(await interrupts.wait({ timeout: 1, ready: () => ++looks === 2 }), true);
    const taken: number[] = [];
    source.take = (vector) => taken.push(vector) === 1;
    assert.equal(await interrupts.wait({ timeout: 1 }), true);
    assert.equal(await interrupts.wait({ timeout: 1 }), false);
    assert.deepEqual(taken, [0, 0]);
    assert.deepEqual(source.disarmed.slice(-3), [0, 0, 0]);
  });

  void it('are disarmed when the function goes', async () => {
    const source = new FakeInterrupts('msix', 2);
    const { backend, fn } = await opened(source);
    const interrupts = await fn.interrupts({ vectors: 2 });
    const waits = [0, 1].map((vector) => assert.rejects(interrupts.wait({ vector })));
    await delay(1);
    source.disarmed.length = 0;
    backend.controller.abort(new PciGoneError(backend.address, 'unplugged'));
    await Promise.all(waits);
    assert.deepEqual(source.disarmed.sort(), [0, 1]);
  });

  void it('end a wait although its signal does not let go', async () => {
    const source = new FakeInterrupts('msix');
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts();
    const { signal } = new AbortController();
    Object.defineProperty(signal, 'removeEventListener', {
      value: () => {
        throw new Error('never');
      },
    });
    const wait = interrupts.wait({ signal });
    source.fire(0);
    assert.equal(await wait, true);
    assert.equal(await interrupts.wait({ timeout: 1, signal }), false);
  });

  void it('end the wait during busy polling, and so do time-out, signal, close and an error of the check', async () => {
    const source = new FakeInterrupts('msix');
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts({ busyPoll: 1000 });
    let looks = 0;
    const ready = (): boolean => ++looks < 0;
    const stopped = async (): Promise<void> => {
      // One check may be in progress.
      await delay(1);
      const before = looks;
      await delay(2);
      assert.equal(looks, before);
    };
    const wait = interrupts.wait({ ready });
    source.fire(0);
    assert.equal(await wait, true);
    await stopped();
    assert.equal(await interrupts.wait({ ready, timeout: 2 }), false);
    await stopped();
    const reason = new Error('enough');
    const controller = new AbortController();
    const aborted = assert.rejects(interrupts.wait({ ready, signal: controller.signal }), reason);
    controller.abort(reason);
    await aborted;
    await stopped();
    for (const turn of [0, 2]) {
      let looked = 0;
      const throws = (): boolean => {
        if (looked++ === turn) throw reason;
        return false;
      };
      await assert.rejects(interrupts.wait({ ready: throws }), reason);
    }
    const closing = rejectsCode('ERR_DMAPOOL_PCI_CLOSED', interrupts.wait({ ready }));
    await interrupts.close();
    await closing;
    await stopped();
  });

  void it(
    'that are polled each turn cause no spurious wake-ups, and report failed writes nevertheless',
    { timeout: 30_000 },
    async () => {
      const { backend, fn } = await opened(null);
      const interrupts = await fn.interrupts({ kinds: ['poll'], pollInterval: 0 });
      const flushes = backend.calls.length;
      let looks = 0;
      let woken = 0;
      while (looks < 20) {
        assert.equal(await interrupts.wait({ ready: () => ++looks === 20 }), true);
        woken++;
      }
      // Once, unless this test was delayed for so long.
      assert.equal(backend.calls.length - flushes, woken - 1);
      // From time to time polling checks that all writes arrived, and then wakes the driver.
      assert.equal(await interrupts.wait({ ready: () => false }), true);
      assert.equal(backend.calls.length - flushes, woken);
      await interrupts.close();
    },
  );

  void it('are not opened with a kind that ranks below polling', async () => {
    const { fn } = await opened(new FakeInterrupts('intx'));
    const interrupts = await fn.interrupts({ kinds: ['msix', 'poll', 'intx'] });
    assert.equal(interrupts.kind, 'poll');
    await interrupts.close();
  });

  void it('refuse wrong options', async () => {
    const { fn } = await opened(new FakeInterrupts('intx'));
    for (const wrong of [
      null,
      { kinds: [] },
      { kinds: ['inty'] },
      { kinds: 'intx' },
      { vectors: 0 },
      { vectors: 1.5 },
      { pollInterval: -1 },
      { busyPoll: -1 },
      { busyPoll: 1001 },
      { busyPoll: NaN },
      { busyPoll: '1' },
      { busyPoll: 'always' },
    ]) {
      await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', fn.interrupts(wrong as never));
    }
    const interrupts = await fn.interrupts();
    for (const wrong of [null, { vector: 1 }, { timeout: -1 }, { timeout: NaN }, { signal: {} }, { ready: true }]) {
      await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', interrupts.wait(wrong as never));
    }
    await fn.close();
  });
});
