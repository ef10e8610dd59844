/**
 * `check-recorded.js FORM FILE OPERATIONS`: compares our pools with recorded hashes; exit code 0: no difference. Each
 * mutant runs it in a process of its own.
 */
import { compareStreams } from './compare.ts';
import { FORM_NAMES } from './forms.ts';
import { RecordedOracle } from './recorded.ts';

const [form, file = '', operations] = process.argv.slice(2);
const known = FORM_NAMES.find((name) => name === form);
if (known === undefined) throw new TypeError(`no form ${String(form)}`);
const campaign = await compareStreams(new RecordedOracle(file), known, Number(operations), 1);
console.log(`${campaign.operations} operations`);
process.exitCode = campaign.difference === null ? 0 : 1;
