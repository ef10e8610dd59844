import { DmaReleaseError } from 'dmapool';

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
