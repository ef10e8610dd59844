/** Runs the checks that its argument names, and prints their results as JSON. */
import { type Check, runChecks } from './check.ts';
import { coreChecks } from './core.ts';
import { type Entry, entryChecks } from './entries.ts';
import { sharingChecks } from './sharing.ts';

/** The part of the suite to run, as the program's one argument in JSON. */
export interface Task {
  readonly part: 'core' | 'threads' | 'web workers' | 'entry points';
  readonly entries?: readonly Entry[];
}

const { part, entries = [] } = JSON.parse(process.argv[2] ?? '') as Task;

async function checksOf(): Promise<readonly Check[]> {
  switch (part) {
    case 'core':
      return coreChecks;
    case 'threads':
      return sharingChecks((await import('./node-threads.ts')).connectThread, true);
    case 'web workers':
      return sharingChecks((await import('./web-workers.ts')).connectWebWorker, false);
    case 'entry points':
      return entryChecks(entries);
  }
}

console.log(JSON.stringify(await runChecks(await checksOf())));
