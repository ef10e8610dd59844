import { DmaArgumentError, DmaReleaseError } from 'dmapool';
import type { DmaStopped } from 'dmapool/pci';

/** Calls all of `releases` in order, whichever of them throw. @throws `DmaReleaseError` of this message, with what they threw. */
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
 * {@link releaseAll} for memory that a device was told of.
 *
 * @param proof That the device can not reach it any more.
 */
export function releaseStopped(proof: DmaStopped, message: string, releases: readonly (() => void)[]): void {
  if (!proof.holds) throw new DmaArgumentError('proof', proof.reason, 'a proof that holds');
  releaseAll(message, releases);
}

/** Runs all of `steps` one after the other, whichever of them fail. @returns What those threw. */
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
