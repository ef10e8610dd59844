/** The program of the page and of its worker: runs the requested checks. */
import { type Check, type Outcome, runChecks } from '../suite/check.ts';
import { coreChecks } from '../suite/core.ts';
import { type Entry, entryChecks } from '../suite/entries.ts';
import { sharingChecks } from '../suite/sharing.ts';
import { unsharedChecks } from '../suite/unshared.ts';
import { connectWebWorker } from '../suite/web-workers.ts';

/** The part of the suite to run. */
export interface Task {
  readonly part: 'core' | 'web workers' | 'unshared' | 'entry points';
  readonly entries?: readonly Entry[];
}

export function runTask({ part, entries = [] }: Task): Promise<Outcome[]> {
  return runChecks(checksOf(part, entries));
}

function checksOf(part: Task['part'], entries: readonly Entry[]): readonly Check[] {
  switch (part) {
    case 'core':
      return coreChecks;
    case 'web workers':
      return sharingChecks(connectWebWorker, false);
    case 'unshared':
      return unsharedChecks;
    case 'entry points':
      return entryChecks(entries);
  }
}
