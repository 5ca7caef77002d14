// The API's page, made of its OpenAPI document.

function add(parent, tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  parent.append(made);
  return made;
}

function shape(schema) {
  const one = schema.anyOf?.find((option) => option.type !== "null") ?? schema;
  const kind = one.enum?.join(" | ") ?? one.type;
  const low = one.minimum ?? "", high = one.maximum ?? "";
  const range = low !== "" || high !== "" ? `, ${low}…${high}` : "";
  return kind + range + (schema.default !== undefined ? `, default ${schema.default}` : "");
}

const schema = await (await fetch("/openapi.json")).json();
for (const [path, methods] of Object.entries(schema.paths)) {
  for (const [method, route] of Object.entries(methods)) {
    const section = add(document.getElementById("routes"), "section");
    add(section, "h2", `${method.toUpperCase()} ${path}`);
    add(section, "p", route.description ?? route.summary);
    const types = Object.keys(route.requestBody?.content ?? {});
    if (types.length) add(section, "p", `Body: ${types.join(" or ")}. ${route.requestBody.description}`);
    if (route.parameters?.length) {
      const table = add(section, "dl");
      for (const parameter of route.parameters) {
        add(table, "dt", parameter.name);
        const text = add(table, "dd", `${parameter.description ?? ""} `);
        add(text, "span", shape(parameter.schema), "quiet");
      }
    }
    const answers = add(section, "dl");
    for (const [status, answer] of Object.entries(route.responses)) {
      add(answers, "dt", status);
      add(answers, "dd", answer.description);
    }
  }
}
