/** The operations of a history in virtual time, and the end that the histories of guarded devices share. */
import assert from 'node:assert/strict';
import { type Device, DmaError, DmaReleaseError } from 'dmapool';
import { PciError, type PciFunction } from 'dmapool/pci';
import type { FaultPlan } from '../guard/fault-plan.ts';
import type { GuardedMemory } from '../guard/guarded-memory.ts';
import type { RecordingLog } from '../support/log.ts';

/** Milliseconds for operations in flight at the end. */
const REST = 400_000;

interface Operation {
  readonly name: string;
  outcome: 'pending' | 'done' | 'failed';
  error: unknown;
}

/** The function of a history, its faults, memory and log. */
interface Ending {
  readonly pci: PciFunction;
  readonly plan: FaultPlan;
  readonly memory: GuardedMemory;
  readonly log: RecordingLog;
  /** Makes the device conform to its specification. */
  readonly relent: () => void;
}

export class HistoryOperations {
  readonly #all: Operation[] = [];

  get count(): number {
    return this.#all.length;
  }

  /** Name and outcome of each operation. */
  get lines(): string[] {
    return this.#all.map(({ name, outcome, error }) => {
      return `${name}: ${outcome}${outcome === 'failed' ? ` ${String(error)}` : ''}`;
    });
  }

  get failed(): readonly Readonly<Operation>[] {
    return this.#all.filter(({ outcome }) => outcome === 'failed');
  }

  /** Runs and records an operation. It must be settled by the end of the history. Returns null if it fails. */
  async run<T>(name: string, call: () => Promise<T> | undefined): Promise<T | null> {
    const operation: Operation = { name, outcome: 'pending', error: null };
    this.#all.push(operation);
    try {
      const value = await call();
      operation.outcome = 'done';
      return value ?? null;
    } catch (error) {
      operation.outcome = 'failed';
      operation.error = error;
      return null;
    }
  }

  /**
   * Closes the function. If that keeps memory, the log must report it, and a later close without faults must free it. Then
   * ends the plan, so that operations that hang fail, and checks that every operation ended with a value or a `DmaError`.
   */
  async end({ pci, plan, memory, log, relent }: Ending): Promise<void> {
    const rest = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, REST));
    let failure: unknown = null;
    await this.run('the last close', () =>
      pci.close().catch((error: unknown) => {
        failure = error;
        throw error;
      }),
    );
    if (failure !== null) {
      checkKept(failure, pci.device, memory.bytesAllocated, log.text);
      plan.end();
      relent();
      // Lets slow accesses complete.
      await rest();
      await pci.close().catch((error: unknown) => {
        assert.ok(error instanceof DmaReleaseError, String(error));
        const what = error.errors.map(String).join();
        assert.ok(!what.includes('may still do DMA'), `a later close fails: ${what}`);
      });
    }
    plan.end();
    await rest();
    const pending = this.#all.filter(({ outcome }) => outcome === 'pending').map(({ name }) => name);
    assert.deepEqual(pending, [], 'operations that are pending after the function was closed');
    for (const { name, error } of this.failed) {
      assert.ok(error instanceof DmaError, `${name} rejects with ${String(error)}`);
    }
  }
}

/** Waits for a limited time: the end of the history settles operations that hang. */
export async function waitFor(promise: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, REST);
  });
  await Promise.race([promise, late]);
  clearTimeout(timer);
}

/**
 * Checks a failed close: if it kept memory, the log reports the bytes.
 *
 * @param allocated Bytes that the memory source has allocated.
 * @param log The text of the device's log.
 */
function checkKept(error: unknown, { bytesAllocated }: Device, allocated: number, log: string): void {
  assert.ok(error instanceof DmaReleaseError, `close rejects with ${String(error)}`);
  const isKept = error.errors.some((each) => each instanceof PciError && each.code === 'ERR_DMAPOOL_PCI_DMA_ACTIVE');
  if (!isKept) return;
  assert.equal(bytesAllocated, allocated, 'bytes that the device kept');
  assert.match(log, new RegExp(`error .*${String(bytesAllocated)} bytes of memory stay reserved`));
}
