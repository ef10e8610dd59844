/** Interrupts of a VFIO device: the kernel signals each through an eventfd. */
import type { InterruptBackend, InterruptKind } from '../pci/backend.ts';
import { SystemCallError } from './error.ts';
import { EventCounter } from './event-counter.ts';
import { libc } from './libc.ts';
import {
  interruptCount,
  setTriggers,
  unmask,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_SET_IRQS,
  VFIO_IRQ,
} from './vfio-abi.ts';

/** The part of the device that {@link VfioInterrupts} uses. */
export interface InterruptOwner {
  readonly address: string;
  /** File descriptor of the device. */
  readonly fd: number;
  /** Resolves when all posted writes have reached the device. */
  flush(): Promise<void>;
}

export class VfioInterrupts implements InterruptBackend {
  readonly kind: Exclude<InterruptKind, 'poll'>;
  readonly level: boolean;
  readonly #owner: InterruptOwner;
  readonly #counters: EventCounter[] = [];
  #listener: ((vector: number) => void) | undefined;
  #closed = false;

  private constructor(owner: InterruptOwner, kind: Exclude<InterruptKind, 'poll'>) {
    this.#owner = owner;
    this.kind = kind;
    // INTx stays asserted until the driver services the device, so the kernel masks it at each occurrence.
    this.level = kind === 'intx';
  }

  /** Enables up to `wanted` interrupts of a kind; null when none are available. @throws {@link SystemCallError} */
  static open(owner: InterruptOwner, kind: Exclude<InterruptKind, 'poll'>, wanted: number): VfioInterrupts | null {
    const available = interruptCount(VFIO_IRQ[kind], (bytes) => {
      libc().ioctl(owner.fd, VFIO_DEVICE_GET_IRQ_INFO, bytes, `${owner.address}: can't read its interrupts`);
    });
    const interrupts = new VfioInterrupts(owner, kind);
    try {
      if (interrupts.#enable(Math.min(available, wanted))) return interrupts;
      return null;
    } catch (error) {
      interrupts.#keepCounters(0);
      throw error;
    }
  }

  #enable(wanted: number): boolean {
    const counters = this.#counters;
    let count = wanted;
    while (count > 0) {
      for (let vector = counters.length; vector < count; vector++) {
        counters.push(new EventCounter(() => this.#listener?.(vector)));
      }
      this.#keepCounters(count);
      const descriptors = counters.map(({ fd }) => fd);
      const got = trySet(this.#owner, VFIO_IRQ[this.kind], descriptors);
      if (got === 0) return true;
      // The system has fewer vectors: retry with the count it returned, or with half if it returned none.
      count = got > 0 ? Math.min(got, count - 1) : count >> 1;
    }
    this.#keepCounters(0);
    return false;
  }

  /** Closes all counters but the first `count`. */
  #keepCounters(count: number): void {
    for (const counter of this.#counters.splice(count)) counter.close();
  }

  get vectors(): number {
    return this.#counters.length;
  }

  listen(listener: (vector: number) => void): void {
    this.#listener = listener;
  }

  async rearm(vector: number): Promise<boolean> {
    if (this.level) {
      // The driver's register writes must reach the device first, or the line is still asserted for the old cause.
      await this.#owner.flush();
      if (this.#closed) return false;
      libc().ioctl(this.#owner.fd, VFIO_DEVICE_SET_IRQS, unmask(VFIO_IRQ.intx), `${this.#owner.address}: can't unmask`);
    }
    this.#counters[vector]!.arm();
    return false;
  }

  disarm(vector: number): void {
    this.#counters[vector]!.disarm();
  }

  take(vector: number): boolean {
    return this.#counters[vector]!.take();
  }

  close(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    this.#closed = true;
    this.#listener = undefined;
    try {
      trySet(this.#owner, VFIO_IRQ[this.kind], []);
    } finally {
      for (const counter of this.#counters) counter.close();
    }
    return Promise.resolve();
  }
}

const NOT_THIS_KIND: readonly string[] = ['ENOSPC', 'EINVAL', 'ENOTTY', 'EBUSY', 'ENODEV', 'ENOTCONN'];

/** Returns 0 on success, else the number of available interrupts, or -1 if the kernel does not return one. */
function trySet(owner: InterruptOwner, index: number, eventfds: readonly number[]): number {
  const purpose = `${owner.address}: can't ${eventfds.length === 0 ? 'disable' : 'enable'} its interrupts`;
  try {
    return libc().ioctl(owner.fd, VFIO_DEVICE_SET_IRQS, setTriggers(index, eventfds), purpose);
  } catch (error) {
    // The caller tries another kind. ENODEV, ENOTCONN: no line is assigned. EBUSY: the line is shared, and the device
    // can't mask its interrupt.
    const none = error instanceof SystemCallError && NOT_THIS_KIND.includes(error.errnoName);
    if (!none || eventfds.length === 0) throw error;
    return -1;
  }
}
