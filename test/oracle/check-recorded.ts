/**
 * `check-recorded.js FORM FILE OPERATIONS`: compares our pools with recorded hashes; exit code 0: no difference. Each
 * mutant runs it in a process of its own.
 */
import { compareStreams } from './compare.ts';
import { FORM_NAMES } from './forms.ts';
import { RecordedOracle } from './recorded.ts';

/** The one after it has more pools than the text has room for. */
const FIRST_SEED = 7;

const [form, file = '', operations] = process.argv.slice(2);
const known = FORM_NAMES.find((name) => name === form);
if (known === undefined) throw new TypeError(`no form ${String(form)}`);
const campaign = await compareStreams(new RecordedOracle(file), known, Number(operations), FIRST_SEED);
console.log(`${campaign.operations} operations`);
process.exitCode = campaign.difference === null ? 0 : 1;
