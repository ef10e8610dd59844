/**
 * MSI and MSI-X of a function. A message is a 32-bit write to memory (PCI 3.0, 6.8), so each vector's address points at a
 * word of the machine's RAM.
 *
 *     driver                      this file                          device model
 *     checks its queue
 *     wait({ vector }) ------->   word = 0: poll the word            writes an entry to its queue,
 *                                 word = MESSAGE: clear it,    <---- then MESSAGE to the word
 *     checks its queue <-------   then notify the driver
 *
 * The word is cleared before the driver checks its queue. If the check misses an entry, the message of that entry
 * arrives after the word was cleared. So no entry is lost. A word does not count: several messages before it is polled
 * are one interrupt. A write to memory wakes no process, so armed vectors are polled.
 */
import type { InterruptBackend, PciBackend } from '../pci/backend.ts';
import { ConfigSpace, type PciCapability } from '../pci/config-space.ts';
import { PCI_CAPABILITY } from '../pci/registers.ts';

/** Milliseconds after the start of a wait in which the words are read once each turn of the event loop. */
const BUSY_TIME = 2;
/** Milliseconds between later reads. */
const POLL_INTERVAL = 1;
/** Data of all messages; not 0, the value of a cleared word. */
const MESSAGE = 1;

/** Message Control of both capabilities (PCI 3.0, 6.8.1.3 and 6.8.2.3). */
const MESSAGE_CONTROL = 2;
const MSI_ENABLE = 1;
/** Multiple Message Enable: 0 for one vector. More vectors would share one address, and so one word. */
const MSI_MULTIPLE = 7 << 4;
const MSI_64 = 1 << 7;
const MSI_MASKS = 1 << 8;
const MSI_ADDRESS = 4;
const MSIX_ENABLE = 1 << 15;
const MSIX_MASK_ALL = 1 << 14;
const MSIX_LAST_ENTRY = 0x7ff;
/** MSI-X: Table Offset and BIR (PCI 3.0, 6.8.2.4). */
const MSIX_TABLE = 4;
const MSIX_BIR = 7;
/** Bytes of a table entry, and its fields: address, data, vector control with its mask bit (PCI 3.0, 6.8.2.6 to 6.8.2.9). */
const MSIX_ENTRY = { size: 16, address: 0, upper: 4, data: 8, control: 12 } as const;
const MSIX_MASKED = 1;

/** The words of a function's vectors. They stay allocated until the function is closed. */
export interface MessageWords {
  /** Address of the first word, below 4 GiB: MSI may have 32-bit addresses. Word `i` is at `dma + 4 * i`. */
  readonly dma: number;
  readonly words: Int32Array;
}

/** The environment of {@link openMessages}. */
export interface MessageContext {
  /** Returns at least `count` cleared words. */
  readonly takeWords: (count: number) => MessageWords;
  /** False after `QemuMachine.unref`: polling then does not keep the process alive. */
  readonly keepsAlive: () => boolean;
}

/** Enables MSI or MSI-X. Returns null if the function does not have it. */
export async function openMessages(
  fn: PciBackend,
  kind: 'msi' | 'msix',
  wanted: number,
  context: MessageContext,
): Promise<InterruptBackend | null> {
  const config = new ConfigSpace(fn, () => undefined);
  const capability = await config.findCapability(PCI_CAPABILITY[kind]);
  if (capability === null) return null;
  const open = kind === 'msi' ? openMsi : openMsix;
  const words = await open(fn, capability, wanted, context.takeWords);
  return words === null ? null : new MessageInterrupts(fn, kind, words, context.keepsAlive);
}

/** Disables MSI and MSI-X. */
export async function disableMessages(fn: PciBackend): Promise<void> {
  const config = new ConfigSpace(fn, () => undefined);
  for (const capability of await config.capabilities()) {
    if (capability.id === PCI_CAPABILITY.msi) await capability.update16(MESSAGE_CONTROL, 0, MSI_ENABLE);
    if (capability.id === PCI_CAPABILITY.msix) await capability.update16(MESSAGE_CONTROL, 0, MSIX_ENABLE);
  }
}

type Open = (
  fn: PciBackend,
  capability: PciCapability,
  wanted: number,
  takeWords: MessageContext['takeWords'],
) => Promise<Int32Array | null>;

/** One vector. */
const openMsi: Open = async (_fn, capability, _wanted, takeWords) => {
  const { dma, words } = takeWords(1);
  const control = (await capability.read16(MESSAGE_CONTROL)) & ~(MSI_ENABLE | MSI_MULTIPLE);
  await capability.write16(MESSAGE_CONTROL, control);
  await capability.write32(MSI_ADDRESS, dma);
  let at = MSI_ADDRESS + 4;
  if ((control & MSI_64) !== 0) {
    await capability.write32(at, 0);
    at += 4;
  }
  await capability.write16(at, MESSAGE);
  if ((control & MSI_MASKS) !== 0) await capability.write32(at + 4, 0);
  await capability.write16(MESSAGE_CONTROL, control | MSI_ENABLE);
  return words.subarray(0, 1);
};

const openMsix: Open = async (fn, capability, wanted, takeWords) => {
  const control = (await capability.read16(MESSAGE_CONTROL)) & ~(MSIX_ENABLE | MSIX_MASK_ALL);
  const place = await capability.read32(MSIX_TABLE);
  const index = place & MSIX_BIR;
  const table = (place & ~MSIX_BIR) >>> 0;
  const entries = (control & MSIX_LAST_ENTRY) + 1;
  const bar = fn.bars.find((candidate) => candidate.index === index);
  if (bar?.kind !== 'memory' || table + entries * MSIX_ENTRY.size > bar.size) return null;
  const vectors = Math.min(entries, wanted);
  const { dma, words } = takeWords(vectors);
  // All vectors are masked until the table is complete.
  await capability.write16(MESSAGE_CONTROL, control | MSIX_MASK_ALL);
  for (let i = 0; i < entries; i++) {
    const at = table + i * MSIX_ENTRY.size;
    if (i < vectors) {
      fn.write(index, at + MSIX_ENTRY.address, 32, dma + i * 4);
      fn.write(index, at + MSIX_ENTRY.upper, 32, 0);
      fn.write(index, at + MSIX_ENTRY.data, 32, MESSAGE);
    }
    fn.write(index, at + MSIX_ENTRY.control, 32, i < vectors ? 0 : MSIX_MASKED);
  }
  await fn.flush();
  await capability.write16(MESSAGE_CONTROL, control | MSIX_ENABLE);
  return words.subarray(0, vectors);
};

class MessageInterrupts implements InterruptBackend {
  readonly kind: 'msi' | 'msix';
  readonly vectors: number;
  readonly level = false;
  readonly #function: PciBackend;
  readonly #words: Int32Array;
  readonly #keepsAlive: () => boolean;
  readonly #armed = new Set<number>();
  #listener: ((vector: number) => void) | undefined;
  #busyUntil = 0;
  /** The scheduled poll of the words. */
  #immediate: NodeJS.Immediate | undefined;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(fn: PciBackend, kind: 'msi' | 'msix', words: Int32Array, keepsAlive: () => boolean) {
    this.#function = fn;
    this.kind = kind;
    this.vectors = words.length;
    this.#words = words;
    this.#keepsAlive = keepsAlive;
    fn.removed.addEventListener('abort', this.#stop);
    if (fn.removed.aborted) this.#stop();
  }

  listen(listener: (vector: number) => void): void {
    this.#listener = listener;
  }

  async rearm(vector: number): Promise<boolean> {
    if (this.#take(vector)) return true;
    this.#armed.add(vector);
    this.#busyUntil = performance.now() + BUSY_TIME;
    this.#schedule();
    // Polling does not depend on it; it reports the failure of a posted write.
    await this.#function.flush();
    return false;
  }

  disarm(vector: number): void {
    this.#armed.delete(vector);
    if (this.#armed.size === 0) this.#cancel();
  }

  async close(): Promise<void> {
    this.#stop();
    if (!this.#function.removed.aborted) await disableMessages(this.#function);
  }

  /** Ends polling. */
  readonly #stop = (): void => {
    this.#function.removed.removeEventListener('abort', this.#stop);
    this.#stopped = true;
    this.#listener = undefined;
    this.#armed.clear();
    this.#cancel();
  };

  /** Clears the word of a vector. True if it held a message. */
  #take(vector: number): boolean {
    if (Atomics.load(this.#words, vector) === 0) return false;
    Atomics.store(this.#words, vector, 0);
    return true;
  }

  readonly #look = (): void => {
    this.#immediate = this.#timer = undefined;
    for (const vector of this.#armed) {
      if (!this.#take(vector)) continue;
      this.#armed.delete(vector);
      this.#listener?.(vector);
    }
    this.#schedule();
  };

  #schedule(): void {
    if (this.#stopped || this.#armed.size === 0 || this.#immediate !== undefined) return;
    if (performance.now() < this.#busyUntil) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      this.#immediate = setImmediate(this.#look);
      if (!this.#keepsAlive()) this.#immediate.unref();
    } else if (this.#timer === undefined) {
      this.#timer = setTimeout(this.#look, POLL_INTERVAL);
      if (!this.#keepsAlive()) this.#timer.unref();
    }
  }

  #cancel(): void {
    clearImmediate(this.#immediate);
    clearTimeout(this.#timer);
    this.#immediate = this.#timer = undefined;
  }
}
