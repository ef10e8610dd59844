/** Checks that entry points can be imported, and have the same exports as in Node. */
import { type Check, same } from './check.ts';

/** An entry point, for a runtime that does not resolve packages by name. */
export interface Entry {
  readonly specifier: string;
  /** The URL of its module, for `import()`. */
  readonly url: string;
  /** The names that it exports, in order. */
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
