/** Shrinks a failing history that consists of features and a number of operations. */

interface History {
  run(): Promise<void>;
  /** The operations and their results. */
  readonly report: string;
}

/** Maximum number of operations of a history. */
const MOST = 64;

/**
 * Removes features, then operations, while the history still fails.
 *
 * @param make Creates the history. The absence of a feature should change as little else as possible.
 * @returns A description of the smallest failing history.
 */
export async function shrinkHistory<F extends string>(
  features: readonly F[],
  make: (features: ReadonlySet<F>, operations: number) => History,
): Promise<string> {
  const kept = new Set(features);
  let operations = MOST;
  let kind: string | null = null;
  /** Runs a history; returns it if it fails with the same kind of error as the first one, else null. */
  const failing = async (): Promise<History | null> => {
    const history = make(kept, operations);
    try {
      await history.run();
      return null;
    } catch (error) {
      kind ??= kindOf(error);
      return kindOf(error) === kind ? history : null;
    }
  };
  let smallest = await failing();
  if (smallest === null) return 'the failure did not recur';
  for (const feature of features) {
    kept.delete(feature);
    const smaller = await failing();
    if (smaller === null) kept.add(feature);
    else smallest = smaller;
  }
  for (let less = MOST >> 1; less >= 1; less >>= 1) {
    operations -= less;
    const smaller = operations > 0 ? await failing() : null;
    if (smaller === null) operations += less;
    else smallest = smaller;
  }
  return `${String(operations)} operations with ${[...kept].join(', ') || 'nothing else'}:\n    ${smallest.report}`;
}

/** Returns the first line of the error without numbers and names. */
function kindOf(error: unknown): string {
  return String(error)
    .split('\n')[0]!
    .replace(/0x[0-9a-f]+|\d+|: [^:]*\(.*/g, '#');
}
