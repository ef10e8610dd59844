import { DmaReleaseError } from 'dmapool';

/** Calls all of `releases`, whichever of them throw. @throws `DmaReleaseError` of this message, with what they threw. */
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
