import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, writeSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { SystemCallError } from 'dmapool/linux';
import { EventCounter } from '../../src/linux/event-counter.ts';
import { Random } from '../support/random.ts';
import { until } from '../support/until.ts';
import { type Errno, SystemFaults } from './system-faults.ts';

const MODULE = new URL('../../src/linux/event-counter.js', import.meta.url).href;
/** Signals a counter, as the kernel does. */
const ONE = new Uint8Array(new BigUint64Array([1n]).buffer);

function signal(counter: EventCounter): void {
  writeSync(counter.fd, ONE);
}

function descriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

/** A few turns of the event loop: enough for all reports that are due. */
async function turns(): Promise<void> {
  for (let i = 0; i < 4; i++) await turn();
}

void describe('an event counter', () => {
  void it('reports an event while it is armed, and later ones when it is armed again', async () => {
    let reports = 0;
    const counter = new EventCounter(() => reports++);
    try {
      counter.arm();
      signal(counter);
      await until('the report', () => reports === 1);
      for (let i = 0; i < 3; i++) {
        signal(counter);
        await turns();
      }
      assert.equal(reports, 2, 'one report without arming');
      counter.arm();
      await until('the report of what came meanwhile', () => reports === 3);
      counter.arm();
      await turns();
      assert.equal(reports, 3);
    } finally {
      counter.close();
    }
  });

  void it('loses no event in random histories', { timeout: 60_000 }, async () => {
    for (let seed = 1; seed <= 200; seed++) {
      const random = new Random(seed);
      /** Signals that no report has followed. */
      let owed = false;
      let spurious = 0;
      const counter = new EventCounter(() => {
        if (!owed) spurious++;
        owed = false;
        // Like a driver: often at once, sometimes later, sometimes never.
        if (random.below(3) === 0) counter.arm();
      });
      try {
        for (let step = 0; step < 50; step++) {
          const action = random.below(5);
          if (action === 0) counter.arm();
          else if (action === 1) counter.disarm();
          else if (action === 2) await turn();
          else {
            owed = true;
            signal(counter);
          }
        }
        counter.arm();
        await until(`the report of the last event, seed ${String(seed)}`, () => !owed);
        assert.equal(spurious, 0, `seed ${String(seed)}`);
      } finally {
        counter.close();
      }
    }
  });

  void it('keeps the process alive only while it is armed', { timeout: 60_000 }, () => {
    const run = (action: string): string => {
      const program = `
        import { writeSync } from 'node:fs';
        import { EventCounter } from ${JSON.stringify(MODULE)};
        const counter = new EventCounter(() => console.log('event'));
        ${action};
        process.on('exit', () => console.log('exit'));`;
      return execFileSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' });
    };
    assert.equal(run(''), 'exit\n');
    assert.equal(run('counter.arm(); counter.disarm()'), 'exit\n');
    const later = `setTimeout(() => writeSync(counter.fd, new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0])), 50).unref()`;
    assert.equal(run(`counter.arm(); ${later}`), 'event\nexit\n');
    assert.equal(run(`counter.arm(); setTimeout(() => counter.close(), 50).unref()`), 'exit\n');
  });

  void it('works in a worker, and ends with it', { timeout: 60_000 }, async () => {
    const before = descriptors();
    const program = `
      import { writeSync } from 'node:fs';
      import { parentPort } from 'node:worker_threads';
      const { EventCounter } = await import(${JSON.stringify(MODULE)});
      const one = new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0]);
      let left = 100;
      const counter = new EventCounter(() => {
        counter.arm();
        if (--left > 0) writeSync(counter.fd, one);
        else parentPort.postMessage('done');
      });
      counter.arm();
      writeSync(counter.fd, one);`;
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(program)}`));
    assert.deepEqual(await once(worker, 'message'), ['done']);
    await worker.terminate();
    await until('the descriptors to be closed', () => descriptors() <= before);
  });

  void it('closes its descriptor, and reports nothing any more', async () => {
    const before = descriptors();
    let reports = 0;
    const counter = new EventCounter(() => reports++);
    assert.equal(descriptors(), before + 1);
    counter.arm();
    signal(counter);
    counter.close();
    counter.close();
    counter.arm();
    counter.disarm();
    await turns();
    assert.equal(reports, 0);
    assert.equal(descriptors(), before);
  });

  void it('gives an event to the caller that takes it first', async () => {
    let reports = 0;
    const counter = new EventCounter(() => reports++);
    try {
      counter.arm();
      assert.equal(counter.take(), false);
      signal(counter);
      assert.equal(counter.take(), true);
      assert.equal(counter.take(), false);
      await turns();
      assert.equal(reports, 0);
      signal(counter);
      await until('the report', () => reports === 1);
    } finally {
      counter.close();
    }
    assert.equal(counter.take(), false);
  });

  void it('is refused in other runtimes, which have no such event loop', () => {
    Object.defineProperty(process.versions, 'bun', { value: '1.0.0', configurable: true });
    try {
      assert.throws(() => new EventCounter(() => undefined), { code: 'ERR_DMAPOOL_DEPENDENCY', message: /Node/ });
    } finally {
      Reflect.deleteProperty(process.versions, 'bun');
    }
  });

  void it('may be closed by its own report', async () => {
    let reports = 0;
    const counter: EventCounter = new EventCounter(() => {
      reports++;
      counter.close();
    });
    counter.arm();
    signal(counter);
    await until('the report', () => reports === 1);
    await turns();
  });

  void it('leaves no descriptor behind if a system call fails', async (t) => {
    const faults = new SystemFaults();
    faults.inLibc(t, ['eventfd', 'pipe', 'replace']);
    const before = descriptors();
    for (const [k, call] of ['eventfd', 'pipe', 'replace'].entries()) {
      faults.fail(k + 1, 'ENOMEM' satisfies Errno);
      assert.throws(() => new EventCounter(() => undefined), SystemCallError);
      assert.equal(faults.failed, call);
      await turns();
      assert.equal(descriptors(), before, call);
    }
  });
});
