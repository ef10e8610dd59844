import { DmaArgumentError, DmaReleaseError } from 'dmapool';
import { type DmaStopped, type Interrupts, PciError } from 'dmapool/pci';

/** Time limit in milliseconds for closing interrupts, as in `PciFunction.close`. */
const CLOSE_TIME = 10_000;

/** Calls all `releases` in order, even if some throw. @throws `DmaReleaseError` with `message` and the errors. */
export function releaseAll(message: string, releases: readonly (() => void)[]): void {
  const errors: unknown[] = [];
  for (const release of releases) {
    try {
      release();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw new DmaReleaseError(message, errors);
}

/**
 * {@link releaseAll} for memory that the device may have reached.
 *
 * @param proof Proof that the device does no DMA.
 * @throws `DmaArgumentError` if the proof does not hold; nothing is released then.
 */
export function releaseStopped(proof: DmaStopped, message: string, releases: readonly (() => void)[]): void {
  if (!proof.holds) throw new DmaArgumentError('proof', proof.reason, 'a proof that still holds');
  releaseAll(message, releases);
}

/** Runs all `steps` in order, even if some fail. @returns Their errors. */
export async function runAll(steps: readonly (() => unknown)[]): Promise<unknown[]> {
  const errors: unknown[] = [];
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      errors.push(error);
    }
  }
  return errors;
}

/**
 * Closes the driver's interrupts. After the time limit, the close continues; `PciFunction.close` waits for it too.
 *
 * @param address Address of the function, for the message.
 * @throws `PciError` `ERR_DMAPOOL_PCI_TIMEOUT`; errors of the close.
 */
export async function closeInterrupts(interrupts: Interrupts | null, address: string): Promise<void> {
  if (interrupts === null) return;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const message = `closing its interrupts took longer than ${String(CLOSE_TIME)} ms`;
      reject(new PciError('ERR_DMAPOOL_PCI_TIMEOUT', address, message));
    }, CLOSE_TIME);
  });
  try {
    await Promise.race([interrupts.close(), late]);
  } finally {
    clearTimeout(timer);
  }
}
