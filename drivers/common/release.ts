import { DmaArgumentError, DmaReleaseError } from 'dmapool';
import type { DmaStopped } from 'dmapool/pci';

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
