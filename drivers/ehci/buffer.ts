import { DmaArgumentError, type DmaBlock, DmaDestroyedError, type DmaPool } from 'dmapool';
import { checkBytes, checkInteger } from 'dmapool/arguments';
import type { DmaStopped } from 'dmapool/pci';
import { UsbError } from './errors.ts';
import { PAGE } from './structures.ts';

/** Most bytes of a buffer: 4 MiB. */
export const MAX_BUFFER: number = 4 * 1024 * 1024;

/** Pages of data: a qTD takes five of them, wherever they lie. */
export type DataPool = DmaPool<'usb_data'>;

/**
 * Memory that a device's data go to or come from without a copy: pages that need not be neighbours. Made by
 * `EhciController.buffer()`.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({
 *   drives: [{ id: 'disk0', file: 'null-co://' }],
 *   devices: ['usb-ehci,id=ehci', 'usb-storage,bus=ehci.0,drive=disk0'],
 * });
 * const pci = await machine.open('ehci');
 * const controller = await EhciController.open(pci);
 * const disk = await MassStorage.open(await controller.connect());
 *
 * const buffer = controller.buffer(64 * 1024);
 * await disk.readInto(0, buffer, 64 * 1024);
 * console.log(buffer.pages.length); // 16
 * buffer.free();
 *
 * await controller.close();
 * await machine.close();
 * ```
 */
export class UsbBuffer implements Disposable {
  /** Bytes. */
  readonly length: number;
  /** Its pages, in order: each of 4096 bytes, the last one perhaps used in part. */
  readonly pages: readonly DmaBlock<'usb_data'>[];
  readonly #pool: DataPool;
  #transfers = 0;
  /** Transfers failed that the controller may go on with: the pages are not the pool's before it is proven stopped. */
  #kept = false;
  #freed = false;

  /** @internal @throws `DmaOutOfMemoryError` */
  constructor(pool: DataPool, length: number) {
    checkInteger('length', length, 0, MAX_BUFFER);
    const pages: DmaBlock<'usb_data'>[] = [];
    pool.allocBulk(pages, Math.ceil(length / PAGE));
    this.#pool = pool;
    this.length = length;
    this.pages = pages;
  }

  /**
   * Throws unless `value` is a buffer of this pool: a page serves one controller, and others would reach something else at
   * its addresses. @internal
   */
  static check(value: unknown, pool: DataPool): void {
    if (typeof value === 'object' && value !== null && #pool in value && value.#pool === pool) return;
    throw new DmaArgumentError('buffer', value, `a UsbBuffer made by the controller ${pool.device.name}`);
  }

  /** Copies `bytes` into it, from its start. @throws `DmaArgumentError` when they are more than it holds. */
  set(bytes: Uint8Array): void {
    checkBytes('bytes', bytes, 0, this.length);
    this.#check();
    for (let at = 0; at < bytes.length; at += PAGE) this.pages[at / PAGE]!.bytes.set(bytes.subarray(at, at + PAGE));
  }

  /** Copies its first bytes out, as many as `into` holds. @throws `DmaArgumentError` when it has fewer. */
  copyTo(into: Uint8Array): void {
    checkBytes('into', into, 0, this.length);
    this.#check();
    for (let at = 0; at < into.length; at += PAGE) {
      into.set(this.pages[at / PAGE]!.bytes.subarray(0, Math.min(PAGE, into.length - at)), at);
    }
  }

  /**
   * Gives its pages back; of a transfer that the controller may go on with, once it is proven stopped. A second call does
   * nothing.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_BUSY` while a transfer uses it.
   */
  free(): void {
    if (this.#freed) return;
    if (this.#transfers > 0) {
      throw new UsbError('ERR_DMAPOOL_USB_BUSY', this.#pool.device.name, 'the buffer is in use by a transfer');
    }
    this.#freed = true;
    if (!this.#kept) this.#freePages();
  }

  /** A transfer failed, and nothing proves that the controller does not go on with it. @internal */
  keep(): void {
    this.#kept = true;
  }

  /** Ends {@link UsbBuffer.keep}: the controller was proven stopped. @internal */
  endKeep(proof: DmaStopped): void {
    if (!this.#kept || !proof.holds) return;
    this.#kept = false;
    if (this.#freed) this.#freePages();
  }

  #freePages(): void {
    try {
      this.#pool.freeBulk(this.pages);
    } catch (error) {
      // The function was closed before the buffer was freed, and has taken the pages back.
      if (!(error instanceof DmaDestroyedError)) throw error;
    }
  }

  /** {@link UsbBuffer.free}, for `using`. */
  [Symbol.dispose](): void {
    this.free();
  }

  /** Somebody uses it, or waits for a turn to. @internal */
  hold(): void {
    this.#check();
    this.#transfers++;
  }

  /** The other end of {@link UsbBuffer.hold}. @internal */
  release(): void {
    this.#transfers--;
  }

  #check(): void {
    if (this.#freed) throw new UsbError('ERR_DMAPOOL_USB_CLOSED', this.#pool.device.name, 'the buffer was freed');
  }
}
