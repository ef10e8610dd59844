import { DmaArgumentError, type DmaBlock, DmaDestroyedError, type DmaPool } from 'dmapool';
import { checkBytes, checkInteger } from 'dmapool/arguments';
import type { DmaStopped } from 'dmapool/pci';
import { UsbError } from './errors.ts';
import { PAGE } from './structures.ts';

/** Maximum length of a buffer in bytes: 4 MiB. */
export const MAX_BUFFER: number = 4 * 1024 * 1024;

/** Pool of data pages. A qTD points to up to five of them, at any addresses. */
export type DataPool = DmaPool<'usb_data'>;

/**
 * A buffer for transfers without a copy: pages, which need not be contiguous. Returned by `EhciController.buffer()`.
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
  /** Length in bytes. */
  readonly length: number;
  /** Its pages of 4096 bytes, in order. The last one may be used in part. */
  readonly pages: readonly DmaBlock<'usb_data'>[];
  readonly #pool: DataPool;
  #transfers = 0;
  /**
   * A transfer failed, but the controller may still use the pages. They are freed only with a proof that it stopped.
   */
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
   * @throws `DmaArgumentError` unless `value` is a buffer of this pool. Another controller may be unable to reach its
   *   pages, or reach other memory at these addresses. @internal
   */
  static check(value: unknown, pool: DataPool): void {
    if (typeof value === 'object' && value !== null && #pool in value && value.#pool === pool) return;
    throw new DmaArgumentError('buffer', value, `a UsbBuffer made by the controller ${pool.device.name}`);
  }

  /** Copies `bytes` to the start of the buffer. @throws `DmaArgumentError` if they are longer than the buffer. */
  set(bytes: Uint8Array): void {
    checkBytes('bytes', bytes, 0, this.length);
    this.#check();
    for (let at = 0; at < bytes.length; at += PAGE) this.pages[at / PAGE]!.bytes.set(bytes.subarray(at, at + PAGE));
  }

  /** Copies the start of the buffer to `into`. @throws `DmaArgumentError` if `into` is longer than the buffer. */
  copyTo(into: Uint8Array): void {
    checkBytes('into', into, 0, this.length);
    this.#check();
    for (let at = 0; at < into.length; at += PAGE) {
      into.set(this.pages[at / PAGE]!.bytes.subarray(0, Math.min(PAGE, into.length - at)), at);
    }
  }

  /**
   * Frees the buffer. If the controller may still use its pages after a failed transfer, they are freed once it is
   * proven stopped. Further calls have no effect.
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

  /** Keeps the pages: a transfer failed, but the controller may still use them. @internal */
  keep(): void {
    this.#kept = true;
  }

  /** Ends {@link UsbBuffer.keep} with the proof that the controller stopped. @internal */
  endKeep(proof: DmaStopped): void {
    if (!this.#kept || !proof.holds) return;
    this.#kept = false;
    if (this.#freed) this.#freePages();
  }

  #freePages(): void {
    try {
      this.#pool.freeBulk(this.pages);
    } catch (error) {
      // The function was closed first, which released the pages.
      if (!(error instanceof DmaDestroyedError)) throw error;
    }
  }

  /** {@link UsbBuffer.free}, for `using`. */
  [Symbol.dispose](): void {
    this.free();
  }

  /** Marks the buffer as in use by a transfer that runs or waits. @internal */
  hold(): void {
    this.#check();
    this.#transfers++;
  }

  /** Ends {@link UsbBuffer.hold}. @internal */
  release(): void {
    this.#transfers--;
  }

  #check(): void {
    if (this.#freed) throw new UsbError('ERR_DMAPOOL_USB_CLOSED', this.#pool.device.name, 'the buffer was freed');
  }
}
