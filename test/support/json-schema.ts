/** The part of JSON Schema (draft 2020-12) that the package's own schemas use; any other keyword is an error. */

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
type Schema = Readonly<Record<string, unknown>>;

const ANNOTATIONS = new Set(['$schema', '$id', '$defs', 'title', 'description']);

/** What of `value` does not fit the schema, each with its path; empty if all does. */
export function schemaProblems(root: Schema, value: unknown): string[] {
  const problems: string[] = [];
  check(root, root, value as Json, '$', problems);
  return problems;
}

function check(root: Schema, schema: Schema, value: Json, path: string, problems: string[]): void {
  const wrong = (what: string): void => void problems.push(`${path}: ${what}`);
  for (const [keyword, argument] of Object.entries(schema)) {
    if (ANNOTATIONS.has(keyword)) continue;
    switch (keyword) {
      case '$ref': {
        const name = /^#\/\$defs\/(\w+)$/.exec(argument as string)![1]!;
        check(root, (root['$defs'] as Record<string, Schema>)[name]!, value, path, problems);
        break;
      }
      case 'const':
        if (value !== argument) wrong(`${JSON.stringify(value)} is not ${JSON.stringify(argument)}`);
        break;
      case 'enum':
        if (!(argument as readonly Json[]).includes(value)) wrong(`${JSON.stringify(value)} is none of the values`);
        break;
      case 'type': {
        const types = [argument].flat() as string[];
        if (!types.some((type) => isOfType(type, value))) wrong(`not of type ${types.join(' or ')}`);
        break;
      }
      case 'minimum':
        if (typeof value === 'number' && value < (argument as number)) wrong(`${String(value)} is too small`);
        break;
      case 'pattern':
        if (typeof value === 'string' && !new RegExp(argument as string).test(value)) wrong('does not fit the pattern');
        break;
      case 'items':
        if (Array.isArray(value)) {
          value.forEach((item: Json, i) => {
            check(root, argument as Schema, item, `${path}[${String(i)}]`, problems);
          });
        }
        break;
      case 'required':
        for (const name of argument as readonly string[]) {
          if (isObject(value) && !Object.hasOwn(value, name)) wrong(`${name} is missing`);
        }
        break;
      case 'properties':
        if (!isObject(value)) break;
        for (const [name, of] of Object.entries(argument as Readonly<Record<string, Schema>>)) {
          if (Object.hasOwn(value, name)) check(root, of, value[name]!, `${path}.${name}`, problems);
        }
        break;
      case 'additionalProperties': {
        if (argument !== false) throw new Error('additionalProperties: only false is known here');
        const known = schema['properties'] as Readonly<Record<string, Schema>>;
        if (!isObject(value)) break;
        for (const name of Object.keys(value)) if (!Object.hasOwn(known, name)) wrong(`${name} is not in the schema`);
        break;
      }
      default:
        throw new Error(`the validator does not know the keyword ${keyword}`);
    }
  }
}

function isObject(value: Json): value is Readonly<Record<string, Json>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isOfType(type: string, value: Json): boolean {
  switch (type) {
    case 'null':
      return value === null;
    case 'array':
      return Array.isArray(value);
    case 'object':
      return isObject(value);
    case 'integer':
      return Number.isInteger(value);
    default:
      return typeof value === type;
  }
}
