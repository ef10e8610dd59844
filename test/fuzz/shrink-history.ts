/** The smallest failing form of a history that is made of features and a number of operations. */

interface History {
  run(): Promise<void>;
  /** What happened. */
  readonly report: string;
}

/** Operations that no history has more of. */
const MOST = 64;

/**
 * Leaves features out, and then operations, as long as the history fails.
 *
 * @param make Makes the history of the case; a feature that is left out changes nothing else as far as that can be.
 */
export async function shrinkHistory<F extends string>(
  features: readonly F[],
  make: (features: ReadonlySet<F>, operations: number) => History,
): Promise<string> {
  const kept = new Set(features);
  let operations = MOST;
  let kind: string | null = null;
  /** The history, if it fails as the first one did. */
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
  if (smallest === null) return 'the failure did not come again';
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

/** The first line, without numbers and names. */
function kindOf(error: unknown): string {
  return String(error)
    .split('\n')[0]!
    .replace(/0x[0-9a-f]+|\d+|: [^:]*\(.*/g, '#');
}
