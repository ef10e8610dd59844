/** A firmware that does nothing, so that the machine has a processor that is halted and devices that nobody else drives. */

/** QEMU takes images of whole 64 KiB and puts their end at 4 GiB. */
const SIZE = 65_536;
/** The processor begins 16 bytes below 4 GiB (Intel SDM volume 3, 9.1.4: first instruction). */
const RESET_VECTOR = SIZE - 16;
const CLI = 0xfa;
const HLT = 0xf4;
/** Jumps back to the `hlt`: a short jump by -3 from its end. */
const JMP_BACK: readonly number[] = [0xeb, 0xfd];

/** The image: interrupts off, and halt for ever, also when a non-maskable interrupt ends one halt. */
export function haltingFirmware(): Uint8Array {
  const image = new Uint8Array(SIZE).fill(HLT);
  image.set([CLI, HLT, ...JMP_BACK], RESET_VECTOR);
  return image;
}
