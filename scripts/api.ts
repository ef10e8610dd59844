/** `npm run api`: writes the API report of each entry point to `api/`. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { apiReports, reportedEntries, reportFile } from './api-report.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));

rmSync(join(root, 'api'), { recursive: true, force: true });
mkdirSync(join(root, 'api'));
for (const [specifier, text] of apiReports(root, reportedEntries(readFileSync(join(root, 'package.json'), 'utf8')))) {
  writeFileSync(join(root, reportFile(specifier)), text);
  console.log(reportFile(specifier));
}
