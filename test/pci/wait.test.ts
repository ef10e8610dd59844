/** `waitFor`: a bounded wait for a condition. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DmaTimeoutError } from 'dmapool';
import { waitFor, type WaitForOptions } from 'dmapool/pci';
import { rejectsCode } from '../support/errors.ts';

const TIMEOUT = 'ERR_DMAPOOL_TIMEOUT';
const never = (): boolean => false;

/** Milliseconds until a promise settles. */
async function timeOf(promise: Promise<unknown>): Promise<number> {
  const begin = performance.now();
  await promise.catch(() => undefined);
  return performance.now() - begin;
}

void describe('waitFor', () => {
  void it('resolves to the first true value, of a plain condition or a promise', async () => {
    assert.equal(await waitFor(() => 7, { timeout: 0 }), 7);
    assert.equal(await waitFor(() => Promise.resolve('ready'), { timeout: 0 }), 'ready');
    for (const interval of [0, 1, 5]) {
      const values = [0, '', null, undefined, false, NaN, 'done'];
      assert.equal(await waitFor(() => values.shift(), { timeout: 5000, interval }), 'done');
      assert.equal(values.length, 0);
    }
  });

  void it('lets the event loop turn between looks', async () => {
    for (const interval of [0, 1]) {
      let turned = false;
      setImmediate(() => {
        setTimeout(() => {
          turned = true;
        }, 1);
      });
      await waitFor(() => turned, { timeout: 5000, interval });
    }
  });

  void it('looks at intervals', async () => {
    let looks = 0;
    await rejectsCode(
      TIMEOUT,
      waitFor(() => ++looks < 0, { timeout: 50, interval: 60_000 }),
    );
    assert.equal(looks, 2, 'at the begin and at the end');
    await rejectsCode(
      TIMEOUT,
      waitFor(() => ++looks < 0, { timeout: 0 }),
    );
    assert.equal(looks, 3);
  });

  void it('rejects at its time-out', async () => {
    const wait = waitFor(never, { timeout: 30 });
    const time = timeOf(wait);
    const error = await rejectsCode(TIMEOUT, wait);
    assert.ok(error instanceof DmaTimeoutError);
    assert.match(error.message, /not true within 30 ms/);
    assert.ok((await time) >= 29);
  });

  void it('looks once more after a time-out, for a process that was suspended', async () => {
    let done = false;
    const wait = waitFor(() => done, { timeout: 20, interval: 5 });
    const end = performance.now() + 60;
    while (performance.now() < end);
    done = true;
    assert.equal(await wait, true);
  });

  void it('does not wait for a condition that hangs', async () => {
    let looks = 0;
    const hang = (): Promise<boolean> => {
      looks++;
      return new Promise(() => undefined);
    };
    await rejectsCode(TIMEOUT, waitFor(hang, { timeout: 10 }));
    const reason = new Error('enough');
    const controller = new AbortController();
    const aborted = assert.rejects(waitFor(hang, { timeout: 60_000, signal: controller.signal }), reason);
    controller.abort(reason);
    await aborted;
    assert.equal(looks, 2);
  });

  void it('ignores what a condition does after the end of the wait', async () => {
    let fail: (error: Error) => void = () => undefined;
    let answer: (value: boolean) => void = () => undefined;
    let looks = 0;
    const slow = (): Promise<boolean> => {
      looks++;
      return new Promise((resolve, reject) => {
        fail = reject;
        answer = resolve;
      });
    };
    await rejectsCode(TIMEOUT, waitFor(slow, { timeout: 1 }));
    fail(new Error('late')); // An unhandled rejection would fail the test.
    await rejectsCode(TIMEOUT, waitFor(slow, { timeout: 1 }));
    answer(false);
    await new Promise((resolve) => setTimeout(resolve, 10));
    assert.equal(looks, 2, 'no look after the end');
  });

  void it('passes on every error of the condition', async () => {
    const reason = new TypeError('wrong');
    for (const at of [0, 3]) {
      let looks = 0;
      const throws = (): boolean => {
        if (looks++ === at) throw reason;
        return false;
      };
      await assert.rejects(waitFor(throws, { timeout: 5000 }), reason);
      looks = 0;
      const rejects = (): Promise<boolean> => (looks++ === at ? Promise.reject(reason) : Promise.resolve(false));
      await assert.rejects(waitFor(rejects, { timeout: 5000 }), reason);
    }
  });

  void it('rejects with the reason of its signal, at once, and leaves no listener and no timer', async () => {
    const reason = new Error('enough');
    await assert.rejects(
      waitFor(() => true, { timeout: 1, signal: AbortSignal.abort(reason) }),
      reason,
    );
    const controller = new AbortController();
    let added = 0;
    const { signal } = controller;
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      added++;
      add(...args);
    };
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      added--;
      remove(...args);
    };
    assert.equal(await waitFor(() => true, { timeout: 60_000, signal }), true);
    assert.equal(added, 0);
    const wait = assert.rejects(waitFor(never, { timeout: 60_000, interval: 60_000, signal }), reason);
    controller.abort(reason);
    assert.ok((await timeOf(wait)) < 30_000);
    await wait;
    assert.equal(added, 0);
    assert.deepEqual(
      process.getActiveResourcesInfo().filter((name) => name === 'Timeout' || name === 'Immediate'),
      [],
    );
  });

  void it('refuses wrong arguments, and a wait without a time limit', async () => {
    for (const options of [
      null,
      {},
      { timeout: Infinity },
      { timeout: -1 },
      { timeout: 2 ** 31 },
      { timeout: 1, interval: -1 },
      { timeout: 1, interval: 60_001 },
      { timeout: 1, signal: {} },
      { timeout: 1, intervall: 1 },
    ]) {
      await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', waitFor(never, options as WaitForOptions));
    }
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', waitFor(true as never, { timeout: 1 }));
  });
});
