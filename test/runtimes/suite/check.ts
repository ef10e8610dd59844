/** Checks that any JavaScript runtime can run: without a test runner, and without anything of Node's. */
import { DmaError } from '../../../src/index.ts';

/** One property to check; `run` throws if it does not hold. */
export interface Check {
  readonly name: string;
  readonly run: () => void | Promise<void>;
}

/** The result of a check; `error` is null if it holds. */
export interface Outcome {
  readonly name: string;
  readonly error: string | null;
}

export async function runChecks(checks: readonly Check[]): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const { name, run } of checks) {
    try {
      await run();
      outcomes.push({ name, error: null });
    } catch (error) {
      // Some engines' stacks begin with the message; others contain only the positions.
      const text = error instanceof Error ? `${String(error)}\n${error.stack ?? ''}` : String(error);
      outcomes.push({ name, error: text });
    }
  }
  return outcomes;
}

export function ok(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(`does not hold: ${what}`);
}

/** Compares two values as JSON, where NaN and the like do not occur. */
export function same(actual: unknown, expected: unknown, what = 'value'): void {
  if (Object.is(actual, expected)) return;
  const [is, wanted] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (typeof actual !== 'object' || is !== wanted) throw new Error(`${what} is ${is}, not ${wanted}`);
}

/** The error that `action` throws or rejects with must be a DmaError with this code. */
export async function refused(code: DmaError['code'], action: () => unknown): Promise<DmaError> {
  try {
    await action();
  } catch (error) {
    if (error instanceof DmaError && error.code === code) return error;
    throw new Error(`not ${code} but ${String(error)}`, { cause: error });
  }
  throw new Error(`not refused with ${code}`);
}

export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
  });
}
