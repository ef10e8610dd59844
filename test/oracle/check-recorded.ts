/**
 * `check-recorded.js FORM FILE OPERATIONS` compares our pools with recorded hashes. Exit code: 0 for no difference, 1 for a
 * difference. `mutate.ts` runs it in a new process for each mutant.
 */
import { compareStreams } from './compare.ts';
import { FORM_NAMES } from './forms.ts';
import { RecordedOracle } from './recorded.ts';

/** The stream of the next seed, 8, has 128 pools, which exceed the length of the `pools` text. */
const FIRST_SEED = 7;

const [form, file = '', operations] = process.argv.slice(2);
const known = FORM_NAMES.find((name) => name === form);
if (known === undefined) throw new TypeError(`no form ${String(form)}`);
const campaign = await compareStreams(new RecordedOracle(file), known, Number(operations), FIRST_SEED);
console.log(`${campaign.operations} operations`);
process.exitCode = campaign.difference === null ? 0 : 1;
