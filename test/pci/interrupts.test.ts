import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { PciFunction, PciGoneError } from 'dmapool/pci';
import { rejectsCode } from '../support/errors.ts';
import { FakeBackend, FakeInterrupts } from './fake-backend.ts';

async function opened(interrupts: FakeInterrupts | null): Promise<{ backend: FakeBackend; fn: PciFunction }> {
  const backend = new FakeBackend();
  backend.interrupts = interrupts;
  return { backend, fn: await PciFunction.open(backend) };
}

void describe('interrupts', () => {
  void it('end a wait, each vector its own, all who wait on it', async () => {
    const source = new FakeInterrupts('msix', 3);
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts({ vectors: 3 });
    assert.deepEqual([interrupts.kind, interrupts.vectors], ['msix', 3]);
    const waits = [0, 1, 1].map((vector) => interrupts.wait({ vector, timeout: 30 }));
    source.fire(1);
    assert.deepEqual(await Promise.all(waits), [false, true, true]);
  });

  void it('that come between two waits end the next one, once, if each is an event', async () => {
    const source = new FakeInterrupts('msi');
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts();
    source.fire(0);
    source.fire(0);
    assert.equal(await interrupts.wait(), true);
    assert.equal(await interrupts.wait({ timeout: 5 }), false);
  });

  void it('that are levels count only as long as they stand', async () => {
    const source = new FakeInterrupts('intx');
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts();
    source.fire(0);
    assert.equal(await interrupts.wait({ timeout: 5 }), false, 'gone meanwhile');
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

  void it('that stood during an earlier wait do not end a later one', async () => {
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

  void it('can be waited for with a signal, before and after', async () => {
    const { fn } = await opened(new FakeInterrupts('intx'));
    const interrupts = await fn.interrupts();
    const reason = new Error('enough');
    await assert.rejects(interrupts.wait({ signal: AbortSignal.abort(reason) }), reason);
    const controller = new AbortController();
    const wait = interrupts.wait({ signal: controller.signal });
    controller.abort(reason);
    await assert.rejects(wait, reason);
    // Whatever the reason is, it is one, and no answer.
    const odd = new AbortController();
    const another = interrupts.wait({ signal: odd.signal });
    odd.abort(true);
    await assert.rejects(another, (thrown) => thrown === true);
  });

  void it('pass on what their home fails with', async () => {
    const source = new FakeInterrupts('intx');
    const { fn } = await opened(source);
    const interrupts = await fn.interrupts();
    source.rearmed = () => Promise.reject(new Error('the home broke'));
    await assert.rejects(interrupts.wait(), /the home broke/);
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

  void it('are polled where there are none, or refused', async () => {
    const { backend, fn } = await opened(null);
    await rejectsCode('ERR_DMAPOOL_PCI_UNSUPPORTED', fn.interrupts({ kinds: ['msix', 'intx'] }));
    for (const pollInterval of [0, 1]) {
      const interrupts = await fn.interrupts({ pollInterval });
      assert.equal(interrupts.kind, 'poll');
      const flushes = backend.calls.length;
      for (let i = 0; i < 3; i++) assert.equal(await interrupts.wait(), true);
      assert.equal(backend.calls.length, flushes + 3, 'posted writes arrive before each wait');
      await interrupts.close();
    }
    const slow = await fn.interrupts({ kinds: ['poll'], pollInterval: 60_000 });
    assert.equal(await slow.wait({ timeout: 2 }), false);
    await slow.close();
  });

  void it('of a kind that is wanted less than polling are not taken', async () => {
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
    ]) {
      await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', fn.interrupts(wrong as never));
    }
    const interrupts = await fn.interrupts();
    for (const wrong of [null, { vector: 1 }, { timeout: -1 }, { timeout: NaN }, { signal: {} }]) {
      await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', interrupts.wait(wrong as never));
    }
    await fn.close();
  });
});
