/** Firmware that halts the CPU, so that no software in the machine touches the devices. */

/** QEMU requires a multiple of 64 KiB and maps the image to end at 4 GiB. */
const SIZE = 65_536;
/** The CPU starts 16 bytes below 4 GiB (Intel SDM volume 3, 9.1.4: first instruction). */
const RESET_VECTOR = SIZE - 16;
const CLI = 0xfa;
const HLT = 0xf4;
/** Jumps back to `hlt`: a short jump by -3 from its end. */
const JMP_BACK: readonly number[] = [0xeb, 0xfd];

/** Returns the image. It disables interrupts and halts; the jump handles a non-maskable interrupt, which ends `hlt`. */
export function haltingFirmware(): Uint8Array {
  const image = new Uint8Array(SIZE).fill(HLT);
  image.set([CLI, HLT, ...JMP_BACK], RESET_VECTOR);
  return image;
}
