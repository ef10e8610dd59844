/** Entry points can be imported, and export what they export elsewhere. */
import { type Check, same } from './check.ts';

/** An entry point, for a runtime that does not find packages by name. */
export interface Entry {
  readonly specifier: string;
  /** Where its module is, for `import()`. */
  readonly url: string;
  /** Names that it exports, in order. */
  readonly names: readonly string[];
}

export function entryChecks(entries: readonly Entry[]): readonly Check[] {
  return entries.map(({ specifier, url, names }) => ({
    name: `import of ${specifier}`,
    async run() {
      same(Object.keys((await import(url)) as object).sort(), names);
    },
  }));
}
