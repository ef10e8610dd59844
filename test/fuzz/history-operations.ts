/** The operations of a history in virtual time, and the end that the histories of guarded devices share. */
import assert from 'node:assert/strict';
import { type Device, DmaReleaseError } from 'dmapool';
import { PciError } from 'dmapool/pci';

/** Milliseconds for operations in flight at the end. */
export const REST = 400_000;

interface Operation {
  readonly name: string;
  outcome: 'pending' | 'done' | 'failed';
  error: unknown;
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

  /** Names of the operations that are not settled. */
  get pending(): string[] {
    return this.#all.filter(({ outcome }) => outcome === 'pending').map(({ name }) => name);
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
export function checkKept(error: unknown, { bytesAllocated }: Device, allocated: number, log: string): void {
  assert.ok(error instanceof DmaReleaseError, `close rejects with ${String(error)}`);
  const isKept = error.errors.some((each) => each instanceof PciError && each.code === 'ERR_DMAPOOL_PCI_DMA_ACTIVE');
  if (!isKept) return;
  assert.equal(bytesAllocated, allocated, 'bytes that the device kept');
  assert.match(log, new RegExp(`error .*${String(bytesAllocated)} bytes of memory stay reserved`));
}
