/** Interrupts of a VFIO device: the kernel adds to an event counter at each. */
import { closeSync } from 'node:fs';
import type { InterruptBackend, InterruptKind } from '../pci/backend.ts';
import { SystemCallError } from './error.ts';
import { type EventPoller, eventPoller } from './event-poller.ts';
import { EFD_CLOEXEC, EFD_NONBLOCK, libc } from './libc.ts';
import {
  interruptCount,
  setTriggers,
  unmask,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_SET_IRQS,
  VFIO_IRQ,
} from './vfio-abi.ts';

/** What they need of their device. */
export interface InterruptOwner {
  readonly address: string;
  /** The device's file. */
  readonly fd: number;
  /** Resolves when all posted writes have arrived. */
  flush(): Promise<void>;
}

export class VfioInterrupts implements InterruptBackend {
  readonly kind: Exclude<InterruptKind, 'poll'>;
  readonly level: boolean;
  readonly vectors: number;
  readonly #owner: InterruptOwner;
  readonly #eventfds: readonly number[];
  readonly #poller: EventPoller;
  readonly #heard: readonly (() => void)[];
  #listener: ((vector: number) => void) | undefined;
  #closed = false;

  private constructor(owner: InterruptOwner, kind: Exclude<InterruptKind, 'poll'>, eventfds: readonly number[]) {
    this.#owner = owner;
    this.kind = kind;
    // The kernel masks INTx whenever it came, since the line stays high until the driver has dealt with the device.
    this.level = kind === 'intx';
    this.vectors = eventfds.length;
    this.#eventfds = eventfds;
    this.#poller = eventPoller();
    this.#heard = eventfds.map((fd, vector) => () => {
      if (libc().takeEvents(fd)) this.#listener?.(vector);
    });
  }

  /** Up to so many interrupts of a kind, or null when the device has none. @throws {@link SystemCallError} */
  static open(owner: InterruptOwner, kind: Exclude<InterruptKind, 'poll'>, wanted: number): VfioInterrupts | null {
    const there = interruptCount(VFIO_IRQ[kind], (bytes) => {
      libc().ioctl(owner.fd, VFIO_DEVICE_GET_IRQ_INFO, bytes, `${owner.address}: can't ask for its interrupts`);
    });
    const eventfds: number[] = [];
    try {
      let count = Math.min(there, wanted);
      while (count > 0) {
        while (eventfds.length < count) eventfds.push(libc().eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
        while (eventfds.length > count) closeSync(eventfds.pop()!);
        const got = trySet(owner, VFIO_IRQ[kind], eventfds);
        if (got === 0) return new VfioInterrupts(owner, kind, eventfds);
        // The system has fewer of them to give away; or, below 0, does not say how many.
        count = got > 0 ? Math.min(got, count - 1) : count >> 1;
      }
    } catch (error) {
      for (const fd of eventfds) closeSync(fd);
      throw error;
    }
    for (const fd of eventfds) closeSync(fd);
    return null;
  }

  listen(listener: (vector: number) => void): void {
    this.#listener = listener;
  }

  async rearm(vector: number): Promise<boolean> {
    const fd = this.#eventfds[vector]!;
    if (this.level) {
      // What the driver told the device must be there first, or the line is still high for the old reason.
      await this.#owner.flush();
      if (this.#closed) return false;
      libc().ioctl(this.#owner.fd, VFIO_DEVICE_SET_IRQS, unmask(VFIO_IRQ.intx), `${this.#owner.address}: can't unmask`);
    }
    if (libc().takeEvents(fd)) return true;
    this.#poller.watch(fd, this.#heard[vector]!);
    return false;
  }

  /** A thread and the process are held as long as a counter is watched; what comes meanwhile stays in the counter. */
  disarm(vector: number): void {
    if (!this.#closed) this.#poller.unwatch(this.#eventfds[vector]!);
  }

  close(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    this.#closed = true;
    this.#listener = undefined;
    try {
      trySet(this.#owner, VFIO_IRQ[this.kind], []);
    } finally {
      for (const fd of this.#eventfds) {
        this.#poller.unwatch(fd);
        closeSync(fd);
      }
    }
    return Promise.resolve();
  }
}

const NOT_THIS_KIND: readonly string[] = ['ENOSPC', 'EINVAL', 'ENOTTY', 'EBUSY', 'ENODEV', 'ENOTCONN'];

/** 0 when it was done; else how many can be had, or -1 when the kernel does not say. */
function trySet(owner: InterruptOwner, index: number, eventfds: readonly number[]): number {
  const purpose = `${owner.address}: can't ${eventfds.length === 0 ? 'switch its interrupts off' : 'get its interrupts'}`;
  try {
    return libc().ioctl(owner.fd, VFIO_DEVICE_SET_IRQS, setTriggers(index, eventfds), purpose);
  } catch (error) {
    // Fewer may be had; none of this kind is no error, since there are other kinds: no line is assigned (ENODEV,
    // ENOTCONN), or one that others use, and the device can't be told apart from them (EBUSY).
    const none = error instanceof SystemCallError && NOT_THIS_KIND.includes(error.errnoName);
    if (!none || eventfds.length === 0) throw error;
    return -1;
  }
}
