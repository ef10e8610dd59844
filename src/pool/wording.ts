/** Whose words a pool's reports begin with: its own, or Linux's for people who read both logs (`dmapool/kernel`). */
export type Wording = 'own' | 'linux';

/**
 * A place in memory as Linux prints a pointer: 16 hex digits. Linux prints a hash, so that logs tell nothing of where the
 * kernel lies; here it is the offset in the memory source's buffer, which tells nothing either.
 */
export function pointer(byteOffset: number): string {
  return byteOffset.toString(16).padStart(16, '0');
}

/** A DMA address as Linux prints it with `%pad`: `0x` and 16 hex digits. */
export function pad(dma: number): string {
  return `0x${dma.toString(16).padStart(16, '0')}`;
}

/** The report of blocks that are out at destroy; `holders` says who has them. */
export function busyMessage(wording: Wording, name: string, holders: string): string {
  return wording === 'linux' ? `dma_pool_destroy ${name} busy\n  ${holders}` : `${name} busy: ${holders}`;
}

/** The report of a block that was written to while it was free; `details` says what was found. */
export function corruptedMessage(wording: Wording, name: string, byteOffset: number, details: string): string {
  return wording === 'linux'
    ? `dma_pool_alloc ${name}, ${pointer(byteOffset)} (corrupted)\n  ${details}`
    : `${name}: ${details}`;
}
